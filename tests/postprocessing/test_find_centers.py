"""Centres on maps small enough to check by eye."""

from __future__ import annotations

import pytest
import torch
from axial_d2.postprocessing import find_centers
from slow_panoptic import slow_centers
from torch import Tensor


def heat(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def centers_of(heatmap: Tensor, **options) -> list[list[int]]:
    return find_centers(heatmap, **{"threshold": 0.1, "nms_kernel": 3, **options})[0].tolist()


TWO_PEAKS = heat(
    [0.0, 0.2, 0.0, 0.0],
    [0.2, 0.9, 0.2, 0.1],
    [0.0, 0.2, 0.1, 0.5],
    [0.0, 0.0, 0.1, 0.3],
)


def test_peaks_come_by_falling_score_as_y_x() -> None:
    centers, scores = find_centers(TWO_PEAKS, threshold=0.1, nms_kernel=3)
    assert centers.tolist() == [[1, 1], [2, 3]]
    assert centers.dtype == torch.int64
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.5]), rtol=0, atol=0)


def test_a_higher_pixel_anywhere_in_the_window_suppresses() -> None:
    assert centers_of(TWO_PEAKS, nms_kernel=3) == [[1, 1], [2, 3]]
    assert centers_of(TWO_PEAKS, nms_kernel=5) == [[1, 1]]


def test_kernel_1_suppresses_nothing() -> None:
    assert len(centers_of(TWO_PEAKS, nms_kernel=1, threshold=0.15)) == 7


def test_centers_are_strictly_above_the_threshold() -> None:
    assert centers_of(TWO_PEAKS, threshold=0.5) == [[1, 1]]
    assert centers_of(TWO_PEAKS, threshold=0.49) == [[1, 1], [2, 3]]


def test_no_center_above_the_threshold() -> None:
    centers, scores = find_centers(TWO_PEAKS, threshold=0.9)
    assert centers.shape == (0, 2)
    assert scores.shape == (0,)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_a_constant_map_is_one_plateau_of_any_shape(shape: tuple[int, int]) -> None:
    assert centers_of(torch.full(shape, 0.5), nms_kernel=3) == [[0, 0]]


def test_a_plateau_is_one_center_at_its_first_pixel() -> None:
    plateau = heat(
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 0.7, 0.7, 0.0],
        [0.0, 0.7, 0.7, 0.7],
        [0.0, 0.0, 0.0, 0.0],
    )
    assert centers_of(plateau) == [[1, 1]]


def test_a_plateau_larger_than_the_window_is_one_center() -> None:
    plateau = torch.zeros(9, 9)
    plateau[1:8, 2:9] = 0.7
    assert centers_of(plateau) == [[1, 2]]


def test_a_diagonal_plateau_is_one_center() -> None:
    assert centers_of(torch.eye(4).flip(1)) == [[0, 3]]


def test_equal_peaks_outside_each_others_window_all_stay_in_row_major_order() -> None:
    peaks = torch.zeros(4, 4)
    peaks[0, 3] = peaks[3, 0] = peaks[0, 0] = peaks[3, 3] = 0.5
    assert centers_of(peaks) == [[0, 0], [0, 3], [3, 0], [3, 3]]


def test_equal_scores_keep_row_major_order_behind_higher_ones() -> None:
    peaks = torch.zeros(5, 5)
    peaks[0, 0] = peaks[0, 4] = peaks[4, 0] = 0.5
    peaks[4, 4] = 0.6
    assert centers_of(peaks) == [[4, 4], [0, 0], [0, 4], [4, 0]]


@pytest.mark.parametrize("top_k", [0, 1, 2, 3, 4])
def test_exactly_top_k_are_kept_also_among_equal_scores(top_k: int) -> None:
    peaks = torch.zeros(5, 5)
    peaks[0, 0] = peaks[0, 4] = peaks[4, 0] = peaks[4, 4] = 0.5
    assert centers_of(peaks, top_k=top_k) == [[0, 0], [0, 4], [4, 0], [4, 4]][:top_k]


@pytest.mark.parametrize("top_k", [17, 200, None])
def test_top_k_may_exceed_the_pixels(top_k: int | None) -> None:
    assert centers_of(TWO_PEAKS, top_k=top_k) == [[1, 1], [2, 3]]


def test_the_map_is_left_as_it_was() -> None:
    heatmap = TWO_PEAKS.clone()
    find_centers(heatmap, threshold=0.4)
    assert torch.equal(heatmap, TWO_PEAKS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    centers, scores = find_centers(TWO_PEAKS.to(dtype), threshold=0.1, nms_kernel=3)
    assert centers.tolist() == [[1, 1], [2, 3]]
    assert scores.dtype == dtype


@pytest.mark.parametrize("kernel", [0, 2, -3])
def test_an_even_or_non_positive_kernel_names_its_key(kernel: int) -> None:
    with pytest.raises(ValueError, match=rf"NMS_KERNEL is {kernel}; it must be odd"):
        find_centers(TWO_PEAKS, nms_kernel=kernel)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("top_k", [3, None])
def test_equals_loops_over_windows(kernel: int, top_k: int | None) -> None:
    for _ in range(10):
        height, width = (int(torch.randint(1, 24, ())) for _ in range(2))
        heatmap = torch.randint(0, 12, (height, width)) / 8  # many plateaus
        given = find_centers(heatmap, 0.25, kernel, top_k)[0].tolist()
        expected = slow_centers(heatmap.numpy(), 0.25, kernel, top_k)
        assert [tuple(center) for center in given] == expected


def test_as_many_centers_as_windows_allow() -> None:
    # One peak on every second pixel: with a window of 3 no map has more.
    peaks = torch.zeros(9, 11)
    peaks[::2, ::2] = torch.rand(5, 6) + 0.5
    assert len(centers_of(peaks, top_k=None)) == 30
