"""No shape before the last step depends on what the maps hold, and no step reads the device.

Tensors on the meta device hold nothing: reading one, or a shape that depends on one, raises. The
same holds for tracing without graph breaks, where results can be compared as well.
"""

from __future__ import annotations

import pytest
import torch
from axial_d2.postprocessing import (
    CenterSlots,
    PanopticSegments,
    SegmentSlots,
    find_center_slots,
    grouping,
    panoptic_segment_slots,
    panoptic_segments,
    to_instances,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NUM_CLASSES, HEIGHT, WIDTH = 5, 17, 23
THINGS = [1, 3]
OPTIONS = {"stuff_area": 12, "threshold": 0.6, "nms_kernel": 5}


def maps(device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (NUM_CLASSES, HEIGHT, WIDTH), (HEIGHT, WIDTH)
    probabilities, heatmap = (torch.rand(shape, generator=generator) for shape in shapes)
    offsets = torch.randn(2, HEIGHT, WIDTH, generator=generator) * 4
    return tuple(tensor.to(device) for tensor in (probabilities, heatmap, offsets))


def assert_equal(given: PanopticSegments, expected: PanopticSegments) -> None:
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=0)


@pytest.mark.parametrize("top_k", [0, 1, 7, 200])
def test_shapes_are_known_without_any_data(top_k: int) -> None:
    slots = panoptic_segment_slots(*maps("meta"), THINGS, top_k=top_k, **OPTIONS)
    tiles = 6 * 8  # of 3×3 pixels
    assert slots.ids.shape == (HEIGHT, WIDTH)
    assert slots.fields.shape == (4, min(top_k, tiles) + NUM_CLASSES)


def test_centers_of_a_meta_map() -> None:
    centers = find_center_slots(maps("meta")[1], nms_kernel=5, top_k=None)
    assert centers.positions.shape == (48, 2)
    assert centers.scores.shape == centers.valid.shape == (48,)


def test_the_meta_device_would_notice() -> None:
    slots = panoptic_segment_slots(*maps("meta"), THINGS)
    with pytest.raises((RuntimeError, NotImplementedError)):
        slots.read()


@pytest.mark.parametrize("top_k", [0, 3, 200])
def test_traced_without_a_break_and_with_the_same_result(top_k: int) -> None:
    torch._dynamo.reset()
    traced = torch.compile(panoptic_segment_slots, fullgraph=True, backend="eager")
    segments = traced(*maps(), THINGS, top_k=top_k, **OPTIONS).read()
    expected = panoptic_segments(*maps(), THINGS, top_k=top_k, **OPTIONS)
    assert_equal(segments, expected)
    assert expected.is_thing.sum() > 0


def test_the_result_is_read_in_one_transfer() -> None:
    names = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "_local_scalar_dense" in func.__name__ or "nonzero" in func.__name__:
                names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    slots = panoptic_segment_slots(*maps(), THINGS, **OPTIONS)
    with Reads():
        segments = slots.read()
        segments.segments_info()
    # Of what was copied to the host at once: the number of segments.
    assert names == ["_local_scalar_dense.default"]
    assert {field.device.type for field in segments[1:]} == {"cpu"}


def test_slots_hold_the_segments_first() -> None:
    fields = torch.tensor([7, 8, 9, 10]), torch.tensor([1, 0, 1, 0]), torch.rand(4)
    kept = torch.tensor([False, True, False, True])
    areas = torch.tensor([0, 20, 0, 1 << 40])
    segments = SegmentSlots.of(torch.zeros(1, 1).int(), kept, *fields, areas).read()
    assert segments.classes.tolist() == [8, 10]
    assert segments.is_thing.tolist() == [False, False]
    assert torch.equal(segments.scores, fields[2][kept])
    assert segments.areas.tolist() == [20, 1 << 40]


def test_filled_slots_are_the_valid_ones() -> None:
    slots = find_center_slots(maps()[1], threshold=0.9, nms_kernel=5, top_k=40)
    assert slots.valid.tolist() == sorted(slots.valid.tolist(), reverse=True)
    assert not slots.positions[~slots.valid].any()
    assert not slots.scores[~slots.valid].any()
    filled = slots.filled()
    assert 0 < len(filled.scores) == slots.valid.sum() < 40
    assert isinstance(filled, CenterSlots)
    assert (filled.scores > 0.9).all()


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that an operator makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("num_centers", [3, 300, 3000])
def test_no_tensor_grows_with_pixels_times_centers(
    monkeypatch: pytest.MonkeyPatch, num_centers: int
) -> None:
    monkeypatch.setattr(grouping, "DISTANCE_ELEMENTS", 1 << 12)
    size = (40, 50)
    centers = torch.stack([torch.randint(side, (num_centers,)) for side in size], dim=1)
    with LargestTensor() as mode:
        grouping.group_pixels(centers, torch.zeros(2, *size), torch.ones(size).bool())
    pixels, factors = 40 * 50 * 8 * grouping.NUM_FACTORS, num_centers * 8 * grouping.NUM_FACTORS
    assert mode.largest <= max((1 << 12) * 8, pixels, factors)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to wait for")
@pytest.mark.parametrize("top_k", [1, 200])
def test_cuda_neither_waits_nor_differs(top_k: int) -> None:
    given = maps("cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        slots = panoptic_segment_slots(*given, THINGS, top_k=top_k, **OPTIONS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    segments = slots.read()
    expected = panoptic_segments(*maps(), THINGS, top_k=top_k, **OPTIONS)
    torch.testing.assert_close(segments.scores, expected.scores)
    assert_equal(segments._replace(scores=expected.scores), expected)
    assert to_instances(segments).pred_masks.is_cuda
