"""Sliding windows: what they cover, and that one window is the plain segmentor."""

from __future__ import annotations

import pytest
import torch
from axial_d2.meta_arch.sliding_window import SlidingWindowSegmentor, windows
from detectron2.modeling.meta_arch import SemanticSegmentor
from semantic_models import example, parts, plain, with_weights_of


def test_inference_and_losses_are_detectron2s() -> None:
    theirs = SemanticSegmentor(**parts())
    ours = with_weights_of(SlidingWindowSegmentor(**parts()), theirs)
    batch = [example(13, 18), example(16, 11)]
    assert ours(batch) == theirs(batch)
    theirs.eval()
    ours.eval()
    for inputs in batch:
        inputs = {**inputs, "height": 21, "width": 25}
        (expected,), (given,) = theirs([inputs]), ours([inputs])
        torch.testing.assert_close(given["sem_seg"], expected["sem_seg"])


@pytest.mark.parametrize("size", [(13, 18), (40, 40)])
def test_a_window_that_holds_the_image_is_the_whole_image(size: tuple[int, int]) -> None:
    whole = plain()
    windowed = with_weights_of(plain(window_size=size, window_stride=(3, 5)), whole)
    inputs = [example(13, 18)]
    torch.testing.assert_close(windowed(inputs)[0]["sem_seg"], whole(inputs)[0]["sem_seg"])


def test_scores_are_means_over_the_windows_that_see_a_pixel() -> None:
    model = plain(window_size=(8, 8), window_stride=(8, 4))
    inputs = example(8, 16)
    image = (inputs["image"] - model.pixel_mean) / model.pixel_std
    total, counts = torch.zeros(4, 8, 16), torch.zeros(16)
    for left in (0, 4, 8):
        total[:, :, left : left + 8] += model.scores(image[None, :, :, left : left + 8])[0]
        counts[left : left + 8] += 1
    assert counts.tolist() == [1] * 4 + [2] * 8 + [1] * 4
    torch.testing.assert_close(model([inputs])[0]["sem_seg"], total / counts)


@pytest.mark.parametrize(
    ("image", "window", "stride"),
    [((8, 8), (3, 5), (3, 2)), ((9, 4), (4, 4), (1, 4)), ((5, 5), (8, 2), (8, 2))],
)
def test_windows_cover_every_pixel_and_stay_inside(
    image: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> None:
    seen = torch.zeros(image)
    for rows, columns in windows(image, window, stride):
        patch = seen[rows, columns]
        assert patch.shape == (min(window[0], image[0]), min(window[1], image[1]))
        patch += 1
    assert seen.min() >= 1


def test_a_window_is_not_seen_twice() -> None:
    assert len(list(windows((8, 8), (4, 4), (4, 4)))) == 4


@pytest.mark.parametrize(
    ("size", "stride"), [((8, 0), (8, 1)), ((8, 8), (9, 8)), ((8,), (8,)), ((8.0, 8), (8, 8))]
)
def test_windows_with_gaps_are_refused(size: tuple, stride: tuple) -> None:
    with pytest.raises(ValueError, match=r"TEST\.SLIDING_WINDOW\.SIZE"):
        plain(window_size=size, window_stride=stride)
