"""Which centre a pixel belongs to."""

from __future__ import annotations

import math

import pytest
import torch
from axial_d2.postprocessing import group_pixels, grouping
from torch import Tensor

CENTERS = torch.tensor([[0, 0], [3, 3]])
EVERYWHERE = torch.ones(4, 4, dtype=torch.bool)
NO_OFFSETS = torch.zeros(2, 4, 4)


def test_without_offsets_the_nearest_center_wins_and_ties_go_to_the_lower_index() -> None:
    # The anti-diagonal is equally far from both.
    assert group_pixels(CENTERS, NO_OFFSETS, EVERYWHERE).tolist() == [
        [1, 1, 1, 1],
        [1, 1, 1, 2],
        [1, 1, 2, 2],
        [1, 2, 2, 2],
    ]
    assert group_pixels(CENTERS.flip(0), NO_OFFSETS, EVERYWHERE).tolist() == [
        [2, 2, 2, 1],
        [2, 2, 1, 1],
        [2, 1, 1, 1],
        [1, 1, 1, 1],
    ]


def test_offsets_are_y_then_x_and_point_from_the_pixel() -> None:
    centers = torch.tensor([[0, 3], [3, 0]])
    offsets = torch.zeros(2, 4, 4)
    offsets[0] = 2.0  # the first row points to the third
    assert group_pixels(centers, offsets, EVERYWHERE)[0].tolist() == [2, 2, 1, 1]
    offsets = offsets.flip(0)  # and now the first column to the third
    assert group_pixels(centers, offsets, EVERYWHERE)[:, 0].tolist() == [1, 1, 1, 2]


def test_only_thing_pixels_are_assigned() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = mask[3, 2] = True
    groups = group_pixels(CENTERS, NO_OFFSETS, mask)
    assert groups.nonzero().tolist() == [[0, 0], [3, 2]]
    assert groups[mask].tolist() == [1, 2]


def test_no_thing_pixel() -> None:
    groups = group_pixels(CENTERS, NO_OFFSETS, ~EVERYWHERE)
    assert groups.shape == (4, 4)
    assert not groups.any()


def test_no_center() -> None:
    groups = group_pixels(torch.zeros(0, 2, dtype=torch.int64), NO_OFFSETS, EVERYWHERE)
    assert groups.dtype == torch.int64
    assert not groups.any()


def test_offsets_of_fractions_of_a_pixel_decide() -> None:
    centers = torch.tensor([[0, 0], [0, 3]])
    offsets = torch.zeros(2, 1, 4)
    offsets[1, 0] = torch.tensor([1.49, 0.51, -0.51, -1.49])
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert group_pixels(centers, offsets, mask).tolist() == [[1, 2, 1, 2]]


@pytest.mark.parametrize("elements", [1, 7, 64, 10**9])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    centers = torch.randint(0, 13, (9, 2))
    offsets = torch.randn(2, 13, 11) * 5
    mask = torch.rand(13, 11) < 0.7
    expected = group_pixels(centers, offsets, mask)
    monkeypatch.setattr(grouping, "DISTANCE_ELEMENTS", elements)
    assert torch.equal(group_pixels(centers, offsets, mask), expected)
    assert expected.unique().numel() > 3


def test_large_maps_and_half_precision_offsets() -> None:
    # 2049 is no bfloat16 number: coordinates must not be computed in the offsets' type.
    offsets = torch.zeros(2, 1, 4097, dtype=torch.bfloat16)
    centers = torch.tensor([[0, 2047], [0, 2049]])
    mask = torch.zeros(1, 4097, dtype=torch.bool)
    mask[0, 2049] = True
    assert group_pixels(centers, offsets, mask)[0, 2049] == 2


def exactly_nearest(centers: Tensor, offsets: Tensor) -> Tensor:
    """1 + index of the nearest centre by distances in float64, the first of equal ones."""
    height, width = offsets.shape[1:]
    y, x = torch.arange(height)[:, None], torch.arange(width)
    y, x = y + offsets[0].double(), x + offsets[1].double()
    distances = [(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centers.tolist()]
    return torch.stack(distances).argmin(dim=0) + 1


def random_centers(count: int, height: int, width: int) -> Tensor:
    return torch.stack([torch.randint(height, (count,)), torch.randint(width, (count,))], dim=1)


@pytest.mark.parametrize(
    ("size", "spread"), [((31, 40), 5), ((31, 40), 0), ((2, 2049), 20), ((4097, 1), 300)]
)
@pytest.mark.parametrize("count", [1, 2, 50])
def test_equals_distances_in_float64(size: tuple[int, int], spread: float, count: int) -> None:
    centers = random_centers(count, *size)
    offsets = torch.randn(2, *size) * spread
    groups = group_pixels(centers, offsets, torch.ones(size, dtype=torch.bool))
    assert torch.equal(groups, exactly_nearest(centers, offsets))


def test_borders_may_cut_any_corner_of_a_cell() -> None:
    size = (48, 56)
    for _ in range(20):
        centers, offsets = random_centers(5, *size), torch.rand(2, *size)
        groups = group_pixels(centers, offsets, torch.ones(size, dtype=torch.bool))
        assert torch.equal(groups, exactly_nearest(centers, offsets))


def test_ties_on_large_maps_are_ties() -> None:
    # Squares of these coordinates are no float32 numbers.
    size = (1, 8194)
    centers = torch.tensor([[0, 8186], [0, 8176], [0, 8191], [0, 8193]])
    offsets = torch.zeros(2, *size)
    offsets[1, 0, 8188] = 0.5  # in the middle
    groups = group_pixels(centers, offsets, torch.ones(size, dtype=torch.bool))
    assert groups[0, 8180:].tolist() == [2, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 4]
    assert torch.equal(groups, exactly_nearest(centers, offsets))


@pytest.mark.parametrize("count", [255, 256, 257, 700])
def test_more_centers_than_are_compared_at_a_time(count: int) -> None:
    centers = random_centers(count, 20, 30)  # many coincide: the first of them wins
    offsets = torch.randint(-8, 9, (2, 20, 30)) / 4
    groups = group_pixels(centers, offsets, torch.ones(20, 30, dtype=torch.bool))
    assert torch.equal(groups, exactly_nearest(centers, offsets))
    assert groups.max() > 200


def test_centers_that_are_not_valid_attract_nothing() -> None:
    centers = random_centers(9, 13, 11)
    offsets = torch.randn(2, 13, 11) * 3
    valid = torch.tensor([False, True, True, False, True, False, False, True, False])
    mask = torch.rand(13, 11) < 0.7
    groups = group_pixels(centers, offsets, mask, valid)
    among_valid = exactly_nearest(centers[valid], offsets)
    assert torch.equal(groups, (valid.nonzero().flatten() + 1)[among_valid - 1] * mask)
    assert not group_pixels(centers, offsets, mask, torch.zeros(9, dtype=torch.bool)).any()


def test_the_pixels_of_the_mask_alone_get_what_all_pixels_get(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    centers, offsets = random_centers(300, 13, 11), torch.randn(2, 13, 11) * 3
    valid, mask = torch.rand(300) < 0.1, torch.rand(13, 11) < 0.7
    on_the_host = group_pixels(centers, offsets, mask, valid)
    monkeypatch.setattr(grouping, "reads_are_free", lambda tensor: False)
    assert torch.equal(group_pixels(centers, offsets, mask, valid), on_the_host)


@pytest.mark.parametrize("far", [1e4, 1e6, 1e9, 1e30, math.inf])
def test_far_offsets_still_point_somewhere(far: float) -> None:
    centers = torch.tensor([[0, 0], [0, 9], [9, 0], [9, 9], [5, 5]])
    offsets = torch.zeros(2, 10, 10)
    offsets[:, 1, 1] = torch.tensor([far, -far])
    offsets[:, 2, 2] = far
    groups = group_pixels(centers, offsets, EVERYWHERE.new_ones(10, 10))
    assert (groups[1, 1], groups[2, 2]) == (3, 4)
    assert groups[8, 8] == 4  # nobody else is disturbed


def test_an_offset_that_is_no_number_disturbs_nobody() -> None:
    offsets = torch.zeros(2, 4, 4)
    offsets[0, 1, 2] = math.nan
    groups = group_pixels(CENTERS, offsets, EVERYWHERE)
    assert groups[1, 2] in (1, 2)
    expected = group_pixels(CENTERS, NO_OFFSETS, EVERYWHERE)
    assert (groups == expected).sum() >= 15
