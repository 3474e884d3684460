"""Weights of scales on things, and their correlation with size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from axial_d2.analysis.scale_sizes import ObjectWeights, object_weights, rank_correlation
from panopticapi.utils import id2rgb
from PIL import Image


class Known:
    """Weights that a test knows: of the first scale, the image's red over 255."""

    device = torch.device("cpu")
    pixel_mean, pixel_std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    test_scales = (1.0, 0.5)

    def eval(self) -> None:
        pass

    def scale_weights(self, images: torch.Tensor) -> torch.Tensor:
        first = images[:, 0] / 255
        return torch.stack([first, 1 - first], dim=1)


def test_things_of_a_picture_with_their_mean_weights(tmp_path: Path) -> None:
    ids = np.zeros((10, 12), int)
    ids[:, 6:], ids[2:4, 1:3] = 7, 9
    red = np.where(ids == 9, 51, 204).astype(np.uint8)
    red[2, 1] = 102
    image = np.stack([red, red * 0, red * 0], axis=-1)
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(id2rgb(ids)).save(tmp_path / "ids.png")
    segments = [{"id": 7, "isthing": False}, {"id": 9, "isthing": True}]
    record = {
        "file_name": str(tmp_path / "image.png"),
        "pan_seg_file_name": str(tmp_path / "ids.png"),
        "segments_info": segments,
    }
    found = object_weights(Known(), [record], "RGB")
    assert found.lengths.tolist() == [2.0]
    np.testing.assert_allclose(found.weights, [[0.25, 0.75]], atol=1e-6)


def test_correlations_by_scale_and_of_the_mean_scale() -> None:
    lengths, small = np.array([3.0, 1.0, 2.0]), np.array([0.9, 0.1, 0.3])
    found = ObjectWeights((1.0, 0.5), lengths, np.stack([1 - small, small], axis=1))
    assert found.correlations() == {1.0: pytest.approx(-1), 0.5: pytest.approx(1)}
    assert found.mean_scale_correlation() == pytest.approx(-1)


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 5], [10, 20, 21]) == pytest.approx(1)
    assert rank_correlation([1, 2, 5], [3, 2, -7]) == pytest.approx(-1)
    # By hand, ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: their covariance 1.125 over √(1.125 · 1.25).
    assert rank_correlation([1, 3, 3, 9], [0, 5, 4, 6]) == pytest.approx(0.9**0.5)
