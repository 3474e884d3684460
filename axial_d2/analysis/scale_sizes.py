"""Whether the weights of scales follow the sizes of objects (Attention to Scale's claim)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from axial_d2.data import read_image, read_panoptic_png
from axial_d2.meta_arch import ScaleAttentionSegmentor

Array = np.ndarray


@dataclass(frozen=True)
class ObjectWeights:
    """Things of some images and how much each scale counts on them.

    Attributes:
        scales: of the model, S.
        lengths: [N], the square roots of the things' visible areas, in pixels.
        weights: [N, S], means over each thing's pixels; rows sum to one.
    """

    scales: tuple[float, ...]
    lengths: Array
    weights: Array

    def correlations(self) -> dict[float, float]:
        """Rank correlation of a scale's weight with the length, in -1 … 1, by scale."""
        return {
            scale: rank_correlation(self.lengths, self.weights[:, index])
            for index, scale in enumerate(self.scales)
        }

    def mean_scale_correlation(self) -> float:
        """Rank correlation of the mean scale, by the weights, with the length, in -1 … 1."""
        return rank_correlation(self.lengths, self.weights @ np.array(self.scales))


@torch.no_grad()
def object_weights(
    model: ScaleAttentionSegmentor, dataset_dicts: Iterable[dict], input_format: str
) -> ObjectWeights:
    """Weights of scales on every thing of a data set, by its ground truth.

    Args:
        model: trained; put into evaluation mode.
        dataset_dicts: with "file_name", "pan_seg_file_name" and "segments_info".
        input_format: "RGB" or "BGR", ``INPUT.FORMAT``.
    """
    model.eval()
    lengths, weights = [], []
    for record in dataset_dicts:
        maps = scale_weights(model, read_image(record["file_name"], input_format))
        ids = torch.as_tensor(read_panoptic_png(record["pan_seg_file_name"]).astype(np.int64))
        for segment in record["segments_info"]:
            if segment["isthing"]:
                mask = ids == segment["id"]
                lengths.append(float(mask.sum()) ** 0.5)
                weights.append(maps[:, mask].mean(dim=1).numpy())
    return ObjectWeights(model.test_scales, np.array(lengths), np.stack(weights))


def scale_weights(model: Any, image: Array) -> torch.Tensor:
    """Weights [S, H, W] on the CPU, for an image [H, W, 3] uint8 in the model's order."""
    pixels = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))
    normalised = (pixels.to(model.device) - model.pixel_mean) / model.pixel_std
    return model.scale_weights(normalised[None])[0].cpu()


def rank_correlation(first: Sequence[float] | Array, second: Sequence[float] | Array) -> float:
    """Spearman's, -1 … 1; equal numbers share the mean of their ranks."""
    return float(np.corrcoef(_ranks(np.asarray(first)), _ranks(np.asarray(second)))[0, 1])


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
