"""Votes, stuff, void, scores and segments_info on 4×4 maps."""

from __future__ import annotations

import pytest
import torch
from axial_d2.postprocessing import PanopticSegments, merge_segments, panoptic_segments
from torch import Tensor

# Classes 0 and 1 are stuff, 2 and 3 things, on purpose not in Detectron2's usual order.
IS_THING = torch.tensor([False, False, True, True])
SEMANTIC = torch.tensor(
    [
        [0, 0, 2, 2],
        [0, 0, 2, 3],
        [3, 3, 1, 1],
        [3, 2, 1, 0],
    ]
)
INSTANCES = torch.tensor(
    [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [2, 2, 0, 0],
        [2, 2, 0, 0],
    ]
)


def merge(
    semantic: Tensor = SEMANTIC,
    instances: Tensor = INSTANCES,
    center_scores: tuple[float, ...] = (0.5, 0.25),
    stuff_area: int = 0,
    probability: Tensor | None = None,
    heatmap: Tensor | None = None,
) -> PanopticSegments:
    probability = torch.ones(semantic.shape) if probability is None else probability
    heatmap = torch.zeros(semantic.shape) if heatmap is None else heatmap
    return merge_segments(
        semantic,
        probability,
        instances,
        torch.tensor(center_scores),
        heatmap,
        IS_THING,
        stuff_area,
    )


def test_instances_vote_then_stuff_by_class() -> None:
    segments = merge()
    assert segments.ids.tolist() == [
        [3, 3, 1, 1],
        [3, 3, 1, 1],
        [2, 2, 4, 4],
        [2, 2, 4, 3],
    ]
    assert segments.ids.dtype == torch.int32
    assert segments.segments_info() == [
        {"id": 1, "category_id": 2, "isthing": True, "score": 0.5, "area": 4},
        {"id": 2, "category_id": 3, "isthing": True, "score": 0.25, "area": 4},
        {"id": 3, "category_id": 0, "isthing": False, "score": 1.0, "area": 5},
        {"id": 4, "category_id": 1, "isthing": False, "score": 1.0, "area": 3},
    ]


def test_a_tied_vote_goes_to_the_lower_class() -> None:
    semantic = torch.tensor([[3, 2], [2, 3]])
    segments = merge(semantic, torch.ones(2, 2, dtype=torch.int64), (0.5,))
    assert segments.classes.tolist() == [2]
    assert (segments.ids == 1).all()


@pytest.mark.parametrize(("stuff_area", "classes"), [(3, [0, 1]), (4, [0]), (5, [0]), (6, [])])
def test_stuff_below_the_area_becomes_void(stuff_area: int, classes: list[int]) -> None:
    segments = merge(stuff_area=stuff_area)
    assert segments.classes[~segments.is_thing].tolist() == classes
    expected_void = ~((INSTANCES > 0) | torch.isin(SEMANTIC, torch.tensor(classes)))
    assert torch.equal(segments.ids == 0, expected_void)


def test_small_things_stay() -> None:
    assert merge(stuff_area=100).classes.tolist() == [2, 3]


def test_without_any_center_things_form_one_segment_a_class() -> None:
    heatmap = torch.zeros(4, 4)
    heatmap[2, 0] = 0.05  # the highest of class 3, below any threshold
    segments = merge(instances=torch.zeros_like(INSTANCES), center_scores=(), heatmap=heatmap)
    assert segments.classes.tolist() == [0, 1, 2, 3]
    assert segments.is_thing.tolist() == [False, False, True, True]
    assert segments.areas.tolist() == [5, 3, 4, 4]
    torch.testing.assert_close(segments.scores, torch.tensor([1.0, 1.0, 0.0, 0.05]))
    assert torch.equal(segments.ids - 1, SEMANTIC.int())


def test_a_center_without_pixels_leaves_no_segment_and_no_gap() -> None:
    instances = torch.where(INSTANCES == 2, 3, INSTANCES)
    segments = merge(instances=instances, center_scores=(0.5, 0.4, 0.25))
    assert segments.classes.tolist() == [2, 3, 0, 1]
    assert segments.ids.unique().tolist() == [1, 2, 3, 4]
    torch.testing.assert_close(segments.scores[:2], torch.tensor([0.5, 0.25]))


def test_scores_are_mean_probability_times_the_centers_height() -> None:
    probability = torch.full((4, 4), 0.5)
    probability[0, 2] = 0.9  # in instance 1
    probability[0, 0] = 0.8  # in stuff 0
    scores = merge(probability=probability).scores
    expected = torch.tensor([0.6 * 0.5, 0.5 * 0.25, (0.8 + 4 * 0.5) / 5, 0.5])
    torch.testing.assert_close(scores, expected)


def test_scores_stay_within_0_and_1_though_the_heat_map_is_unbounded() -> None:
    assert merge(center_scores=(3.0, 1.5)).scores.max() == 1
    assert merge(center_scores=(-1.0, 0.0)).scores.min() == 0


def test_fields_and_map_agree() -> None:
    generator = torch.Generator().manual_seed(1)
    semantic = torch.randint(0, 4, (17, 23), generator=generator)
    instances = torch.randint(1, 6, (17, 23), generator=generator) * IS_THING[semantic]
    segments = merge(semantic, instances, (0.9, 0.8, 0.7, 0.6, 0.5))
    assert len({len(field) for field in segments[1:]}) == 1
    for info in segments.segments_info():
        assert (segments.ids == info["id"]).sum() == info["area"] > 0
        assert info["isthing"] == bool(IS_THING[info["category_id"]])
        assert all(
            type(info[key]) is kind
            for key, kind in {
                "id": int,
                "category_id": int,
                "isthing": bool,
                "score": float,
                "area": int,
            }.items()
        )
    assert segments.ids.max() == len(segments.classes)


def test_the_mean_probability_of_a_large_segment_is_exact_enough() -> None:
    # In float32, adding 0.3 to ten millions one by one would stall or drift.
    side = 3200
    semantic = torch.zeros(side, side, dtype=torch.int64)
    probability = torch.full((side, side), 0.3)
    segments = merge(semantic, torch.zeros_like(semantic), (), probability=probability)
    assert segments.scores.item() == pytest.approx(0.3, rel=1e-3)


def maps(semantic: Tensor, num_classes: int = 4) -> Tensor:
    return torch.nn.functional.one_hot(semantic, num_classes).permute(2, 0, 1).float()


def test_all_in_one() -> None:
    heatmap = torch.zeros(4, 4)
    heatmap[0, 2], heatmap[3, 0] = 0.5, 0.25
    segments = panoptic_segments(
        maps(SEMANTIC), heatmap, torch.zeros(2, 4, 4), [2, 3], stuff_area=0, nms_kernel=3
    )
    assert torch.equal(segments.ids, merge().ids)
    assert segments.segments_info() == merge().segments_info()


def test_of_equal_probabilities_the_lower_class_wins() -> None:
    tied = torch.full((4, 2, 2), 0.25)
    segments = panoptic_segments(
        tied, torch.zeros(2, 2), torch.zeros(2, 2, 2), [2, 3], stuff_area=0
    )
    assert segments.classes.tolist() == [0]


def test_no_thing_class_and_only_thing_classes() -> None:
    arguments = (maps(SEMANTIC), torch.ones(4, 4), torch.zeros(2, 4, 4))
    assert panoptic_segments(*arguments, [], stuff_area=0).classes.tolist() == [0, 1, 2, 3]
    # One centre: everything votes, and of the equally frequent 0 has most pixels.
    assert panoptic_segments(*arguments, range(4), stuff_area=0).classes.tolist() == [0]


def test_everything_void() -> None:
    segments = panoptic_segments(
        maps(torch.zeros(3, 3, dtype=torch.int64)), torch.zeros(3, 3), torch.zeros(2, 3, 3), [2, 3]
    )
    assert not segments.ids.any()
    assert segments.segments_info() == []
