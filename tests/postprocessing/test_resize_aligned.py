"""Resizing with corner pixels on corner pixels: PyTorch's own where it can, and by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from axial_d2.postprocessing.resize import resize_aligned, resize_offsets_aligned
from torch import Tensor

Size = tuple[int, int]


def ramp(height: int, width: int) -> Tensor:
    """[1, 2, height, width]: the row, and the column."""
    return torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))[
        None
    ].double()


@pytest.mark.parametrize("size", [(65, 97), (33, 17), (5, 7), (2, 100), (1, 1), (1, 40)])
def test_without_padding_it_is_pytorchs(size: Size) -> None:
    low = torch.randn(2, 3, 17, 25, dtype=torch.float64)
    expected = F.interpolate(low, size, mode="bilinear", align_corners=True)
    torch.testing.assert_close(resize_aligned(low, (65, 97), (65, 97), size), expected)


def test_padding_is_cut_off_without_moving_anything() -> None:
    low = torch.randn(1, 2, 5, 7)
    whole = F.interpolate(low, (17, 25), mode="bilinear", align_corners=True)
    resized = resize_aligned(low, (17, 25), (12, 19), (12, 19))
    torch.testing.assert_close(resized, whole[..., :12, :19])


def test_a_pixel_of_the_image_has_its_place_in_cells() -> None:
    resized = resize_aligned(ramp(5, 7), (17, 25), (16, 22), (16, 22))
    expected = ramp(16, 22) / 4
    torch.testing.assert_close(resized, expected)


@pytest.mark.parametrize("size", [(31, 43), (61, 64), (16, 22), (4, 8)])
def test_corners_of_the_output_lie_on_those_of_the_image(size: Size) -> None:
    """Of an image of 16 × 22 pixels in 17 × 25, whose cells are 4 pixels apart."""
    resized = resize_aligned(ramp(5, 7), (17, 25), (16, 22), size)
    steps = torch.tensor([15 / (size[0] - 1), 21 / (size[1] - 1)]).double()[:, None, None]
    torch.testing.assert_close(resized, ramp(*size) * steps / 4)


@pytest.mark.parametrize("size", [(16, 22), (31, 43), (8, 50)])
def test_offsets_point_to_the_same_place_at_every_size(size: Size) -> None:
    """Every pixel of the image points to the cell (2, 3), which is its pixel (8, 12)."""
    offsets = torch.tensor([2.0, 3.0]).double()[:, None, None] - ramp(5, 7)
    resized = resize_offsets_aligned(offsets, (17, 25), (16, 22), size)
    targets = resized + ramp(*size)
    expected = torch.tensor([8 * (size[0] - 1) / 15, 12 * (size[1] - 1) / 21]).double()
    torch.testing.assert_close(targets[0], expected[:, None, None].expand(2, *size))


def test_offsets_of_a_cell_are_pixels_between_cells() -> None:
    """(H - 1) / (h - 1), as DeepLab2 scales them."""
    resized = resize_offsets_aligned(torch.ones(1, 2, 5, 7), (17, 49), (17, 49), (17, 49))
    torch.testing.assert_close(resized[0, 0], torch.full((17, 49), 4.0))
    torch.testing.assert_close(resized[0, 1], torch.full((17, 49), 8.0))


@pytest.mark.parametrize("image", [(1, 1), (1, 9), (2, 17)])
@pytest.mark.parametrize("output", [(1, 1), (3, 50), (100, 1)])
def test_the_smallest_sizes_give_finite_maps(image: Size, output: Size) -> None:
    padded = (17, 17)
    for resize in (resize_aligned, resize_offsets_aligned):
        resized = resize(torch.rand(1, 2, 5, 5), padded, image, output)
        assert resized.shape == (1, 2, *output)
        assert resized.isfinite().all()


def test_one_cell_is_the_same_everywhere() -> None:
    resized = resize_aligned(torch.full((1, 1, 1, 1), 3.0), (1, 1), (1, 1), (4, 6))
    assert torch.equal(resized, torch.full((1, 1, 4, 6), 3.0))
