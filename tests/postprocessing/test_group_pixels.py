"""Which centre a pixel belongs to."""

from __future__ import annotations

import pytest
import torch
from axial_d2.postprocessing import group_pixels, grouping

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
