"""The whole post-processing against plain loops, and against Detectron2 where that is right."""

from __future__ import annotations

import pytest
import torch
from axial_d2.postprocessing import panoptic_segments
from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation
from slow_panoptic import slow_panoptic_segments
from torch import Tensor

THINGS = [1, 3]
NUM_CLASSES = 5


def random_maps(seed: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps on coarse grids, so that ties abound and arithmetic is exact."""
    generator = torch.Generator().manual_seed(seed)

    def integers(limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=generator).float()

    probabilities = integers(5, NUM_CLASSES, height, width) / 8
    heatmap = integers(9, height, width) / 8
    offsets = (integers(17, 2, height, width) - 8) / 4
    return probabilities, heatmap, offsets


@pytest.mark.parametrize("seed", range(40))
def test_equals_plain_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    height, width, kernel, k = (
        int(torch.randint(limit, (), generator=generator)) for limit in (14, 14, 4, 8)
    )
    options = {
        "stuff_area": seed % 12,
        "threshold": (0.0, 0.5, 0.875, 1.0)[seed % 4],  # the last leaves no centre
        "nms_kernel": 2 * kernel + 1,
        "top_k": k or None,
    }
    maps = random_maps(seed, height + 1, width + 1)
    segments = panoptic_segments(*maps, THINGS, **options)
    ids, infos = slow_panoptic_segments(*(m.numpy() for m in maps), THINGS, **options)

    assert segments.ids.tolist() == ids.tolist()
    assert len(segments.segments_info()) == len(infos)
    for info, expected in zip(segments.segments_info(), infos, strict=True):
        assert info.pop("score") == pytest.approx(expected.pop("score"), abs=1e-6)
        assert info == expected


def partition(ids: Tensor) -> set[frozenset[int]]:
    return {frozenset(torch.where(ids.flatten() == i)[0].tolist()) for i in ids.unique()}


@pytest.mark.parametrize("seed", range(10))
def test_equals_detectron2_where_nothing_is_tied_and_something_is_found(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(NUM_CLASSES, 24, 31, generator=generator)
    heatmap = torch.rand(24, 31, generator=generator)
    offsets = torch.randn(2, 24, 31, generator=generator) * 3
    divisor, stuff_area = 1000, 160
    segments = panoptic_segments(
        probabilities, heatmap, offsets, THINGS, stuff_area=stuff_area, threshold=0.5, nms_kernel=5
    )
    expected, _ = get_panoptic_segmentation(
        probabilities.argmax(0, keepdim=True),
        heatmap[None].clone(),
        offsets,
        THINGS,
        divisor,
        stuff_area,
        -1,
        threshold=0.5,
        nms_kernel=5,
        top_k=200,
    )
    expected = expected[0]
    assert partition(segments.ids) == partition(expected)
    classes = torch.cat([torch.tensor([-1]), segments.classes])[segments.ids.long()]
    assert torch.equal(classes, torch.div(expected, divisor, rounding_mode="floor"))
    assert (segments.ids == 0).any(), "some stuff is too small, or void is not compared"
    assert segments.is_thing.sum() > 5
