"""Thing segments as Detectron2's Instances."""

from __future__ import annotations

import torch
from axial_d2.postprocessing import PanopticSegments, to_instances
from detectron2.structures import BitMasks, Instances


def segments(ids: list[list[int]], is_thing: list[bool]) -> PanopticSegments:
    ids_map = torch.tensor(ids, dtype=torch.int32)
    count = len(is_thing)
    return PanopticSegments(
        ids_map,
        torch.arange(count) + 10,
        torch.tensor(is_thing, dtype=torch.bool),
        torch.linspace(0.9, 0.1, count),
        torch.bincount(ids_map.flatten().long(), minlength=count + 1)[1:],
    )


IDS = [
    [0, 1, 1, 2, 2],
    [3, 3, 1, 2, 2],
    [3, 3, 3, 4, 3],
]


def test_masks_boxes_scores_and_classes_of_the_things_alone() -> None:
    instances = to_instances(segments(IDS, [True, False, True, True]))
    assert isinstance(instances, Instances)
    assert instances.image_size == (3, 5)
    assert instances.pred_classes.tolist() == [10, 12, 13]
    torch.testing.assert_close(instances.scores, torch.linspace(0.9, 0.1, 4)[[0, 2, 3]])
    assert instances.pred_masks.dtype == torch.bool
    for mask, segment_id in zip(instances.pred_masks, (1, 3, 4), strict=True):
        assert torch.equal(mask, torch.tensor(IDS) == segment_id)
    # x0, y0, x1, y1; a single pixel has a box of one pixel.
    assert instances.pred_boxes.tensor.tolist() == [
        [1, 0, 3, 2],
        [0, 1, 5, 3],
        [3, 2, 4, 3],
    ]


def test_boxes_equal_detectron2s() -> None:
    ids = torch.randint(0, 7, (11, 13)).tolist()
    instances = to_instances(segments(ids, [True] * 6))
    expected = BitMasks(instances.pred_masks).get_bounding_boxes()
    assert torch.equal(instances.pred_boxes.tensor, expected.tensor)


def test_no_thing() -> None:
    instances = to_instances(segments([[1, 1], [0, 2]], [False, False]))
    assert len(instances) == 0
    assert instances.pred_masks.shape == (0, 2, 2)
    assert instances.pred_boxes.tensor.shape == (0, 4)
    assert set(instances.get_fields()) == {"pred_masks", "pred_boxes", "scores", "pred_classes"}


def test_no_segment_at_all() -> None:
    assert len(to_instances(segments([[0, 0]], []))) == 0


def test_the_result_moves_between_devices_as_evaluators_do() -> None:
    assert len(to_instances(segments(IDS, [True] * 4)).to(torch.device("cpu"))) == 4
