"""One interpolation from the stride to the output, for scores and for offsets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from axial_d2.postprocessing import panoptic_segments, resize_predictions
from axial_d2.postprocessing.resize import resize_offsets
from torch import Tensor

STRIDE = 4


def test_stride_1_at_the_same_size_is_the_identity() -> None:
    predictions = torch.randn(2, 3, 5, 7)
    assert torch.equal(resize_predictions(predictions, 1, (5, 7), (5, 7)), predictions)
    assert torch.equal(resize_offsets(predictions[:, :2], 1, (5, 7), (5, 7)), predictions[:, :2])


def test_a_ramp_stays_the_ramp_wherever_it_is_not_clamped() -> None:
    # Low-resolution pixel i covers input pixels 4i ... 4i+3, whose middle is 4i + 1.5.
    ramp = (torch.arange(4.0) * 4 + 1.5).expand(1, 1, 1, 4)
    resized = resize_predictions(ramp, 4, (4, 16), (4, 16))[0, 0]
    torch.testing.assert_close(resized[0, 2:14], torch.arange(2.0, 14.0))


def test_twice_the_size_samples_at_half_pixels() -> None:
    line = torch.tensor([0.0, 4.0, 8.0]).view(1, 1, 1, 3)
    resized = resize_predictions(line, 1, (1, 3), (2, 6))[0, 0]
    assert resized.tolist() == [[0, 1, 3, 5, 7, 8]] * 2


def test_twice_the_size_doubles_offsets() -> None:
    offsets = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    doubled = resize_offsets(offsets, 1, (3, 3), (6, 6))
    assert (doubled[:, 0] == 2).all()
    assert (doubled[:, 1] == -4).all()


def test_offsets_scale_by_stride_and_by_each_axis_of_the_output() -> None:
    offsets = torch.ones(1, 2, 2, 3)
    resized = resize_offsets(offsets, STRIDE, (8, 12), (4, 36))
    assert resized.shape == (1, 2, 4, 36)
    # 4 input pixels are 2 output rows and 12 output columns.
    torch.testing.assert_close(resized[0, :, 0, 0], torch.tensor([2.0, 12.0]))
    torch.testing.assert_close(resized, resized[:, :, :1, :1].expand_as(resized))


@pytest.mark.parametrize("image_size", [(9, 16), (16, 9), (9, 11), (13, 14), (1, 1), (5, 3)])
def test_padding_beyond_the_image_is_cut_off_without_moving_anything(
    image_size: tuple[int, int],
) -> None:
    low = torch.randn(1, 2, 4, 4)  # covers 16 × 16
    whole = F.interpolate(low, (16, 16), mode="bilinear", align_corners=False)
    resized = resize_predictions(low, STRIDE, image_size, image_size)
    torch.testing.assert_close(resized, whole[..., : image_size[0], : image_size[1]])


def test_padding_is_cut_off_at_another_output_size_too() -> None:
    low = torch.randn(1, 1, 4, 4)
    doubled = F.interpolate(low, (32, 32), mode="bilinear", align_corners=False)
    resized = resize_predictions(low, STRIDE, (9, 14), (18, 28))
    torch.testing.assert_close(resized, doubled[..., :18, :28])


def test_exactly_the_requested_size_for_many_sizes() -> None:
    generator = torch.Generator().manual_seed(0)

    def size(limit: int) -> tuple[int, int]:
        return tuple((torch.randint(limit, (2,), generator=generator) + 1).tolist())

    for _ in range(300):
        stride = 2 ** int(torch.randint(6, (), generator=generator))
        image, output = size(150), size(200)
        cells = [-(-side // stride) for side in image]
        low = torch.zeros(1, 2, *cells)
        assert resize_predictions(low, stride, image, output).shape[-2:] == output
        assert resize_offsets(low, stride, image, output).shape[-2:] == output


@pytest.mark.parametrize("size", [641, 1025, 1333, 2177])
def test_exactly_the_requested_size_at_the_papers_sizes(size: int) -> None:
    low = torch.zeros(1, 1, -(-size // STRIDE), 1)
    for output in (427, 480, 640, 1024, size):
        assert resize_predictions(low, STRIDE, (size, 4), (output, 4)).shape[-2:] == (output, 4)


# Instances as rectangles (top, left, bottom, right) in cells of STRIDE input pixels, some of
# them touching.
RECTANGLES = [(1, 1, 9, 7), (1, 7, 9, 14), (11, 2, 15, 17), (2, 17, 10, 21), (12, 19, 17, 22)]
CELLS = (18, 23)


def ideal_maps() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of 2 classes (0 stuff, 1 thing), heat-map and offsets, at STRIDE."""
    y, x = torch.meshgrid(*(torch.arange(float(n)) for n in CELLS), indexing="ij")
    thing, heatmap, offsets = torch.zeros(CELLS), torch.zeros(CELLS), torch.zeros(2, *CELLS)
    for top, left, bottom, right in RECTANGLES:
        cy, cx = (top + bottom - 1) / 2, (left + right - 1) / 2
        thing[top:bottom, left:right] = 1
        offsets[0, top:bottom, left:right] = (cy - y)[top:bottom, left:right]
        offsets[1, top:bottom, left:right] = (cx - x)[top:bottom, left:right]
        heatmap = heatmap.maximum(torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 2))
    return torch.stack([1 - thing, thing])[None] * 20, heatmap[None, None], offsets[None]


def expected_ids(output_size: tuple[int, int]) -> Tensor:
    """Every output pixel has the instance of the cell that it lies in."""
    ids = torch.zeros(1, 1, *CELLS)
    for number, (top, left, bottom, right) in enumerate(RECTANGLES, start=1):
        ids[..., top:bottom, left:right] = number
    return F.interpolate(ids, output_size, mode="nearest-exact")[0, 0].int()


@pytest.mark.parametrize(
    "output_size",
    [(72, 92), (36, 46), (144, 184), (72, 184), (144, 46), (101, 67)],
    ids=["input size", "0.5x", "2x", "twice as wide", "2x by 0.5x", "odd"],
)
def test_instances_stay_apart_at_every_output_size(output_size: tuple[int, int]) -> None:
    image_size = (CELLS[0] * STRIDE, CELLS[1] * STRIDE)
    logits, heatmap, offsets = ideal_maps()
    segments = panoptic_segments(
        resize_predictions(logits, STRIDE, image_size, output_size)[0].softmax(0),
        resize_predictions(heatmap, STRIDE, image_size, output_size)[0, 0],
        resize_offsets(offsets, STRIDE, image_size, output_size)[0],
        [1],
        stuff_area=0,
    )
    expected = expected_ids(output_size)
    assert segments.is_thing.tolist() == [True] * len(RECTANGLES) + [False]
    for number in range(1, len(RECTANGLES) + 1):
        mask = expected == number
        found = segments.ids[mask].mode().values
        overlap = ((segments.ids == found) & mask).sum() / ((segments.ids == found) | mask).sum()
        # Touching instances share blended offsets along one cell at most.
        assert overlap > 0.8, (number, float(overlap))
        assert int(found) <= len(RECTANGLES)
