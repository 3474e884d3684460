"""Divides a picture into regions of stuff with irregular borders.

Letters: ``H``, ``W`` picture height and width in pixels; a map is int32 ``[H, W]``.
"""

from __future__ import annotations

import cv2
import numpy as np
from axial_d2.data.synthetic.textures import rotated_grid, smooth_noise

Array = np.ndarray


def _has_islands(labels: Array, count: int) -> bool:
    """Whether a region is too small, or has a part smaller than 2 % of the picture."""
    for k in range(count):
        _, _, stats, _ = cv2.connectedComponentsWithStats((labels == k).astype(np.uint8))
        areas = stats[1:, cv2.CC_STAT_AREA]
        if areas.sum() < 0.12 * labels.size or areas.min() < 0.02 * labels.size:
            return True
    return False


def _bands(rng: np.random.Generator, shape: tuple[int, int], count: int) -> Array:
    along, _ = rotated_grid(shape, rng.uniform(0, 2 * np.pi))
    along = (along - along.min()) / np.ptp(along)
    along = along + rng.uniform(0.04, 0.1) * smooth_noise(rng, shape, 3)
    cuts = (np.arange(1, count) + rng.uniform(-0.2, 0.2, count - 1)) / count
    return np.digitize(along, cuts).astype(np.int32)


def _cells(rng: np.random.Generator, shape: tuple[int, int], count: int) -> Array:
    seeds = rng.uniform(0.08, 0.92, (count + int(rng.integers(0, 2)), 2)) * np.array(shape)
    wobble = 0.05 * max(shape)
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    x = np.arange(shape[1], dtype=np.float32)[None, :]
    y = y + wobble * smooth_noise(rng, shape, 4)
    x = x + wobble * smooth_noise(rng, shape, 4)
    distance = np.stack([(y - sy) ** 2 + (x - sx) ** 2 for sy, sx in seeds])
    return (distance.argmin(axis=0) % count).astype(np.int32)


def _pond(rng: np.random.Generator, shape: tuple[int, int], count: int) -> Array:
    """A blob lying on bands."""
    labels = _bands(rng, shape, count - 1) if count > 2 else np.zeros(shape, np.int32)
    cy, cx = rng.uniform(0.25, 0.75, 2) * np.array(shape)
    y = (np.arange(shape[0], dtype=np.float32)[:, None] - cy) / (shape[0] * rng.uniform(0.25, 0.4))
    x = (np.arange(shape[1], dtype=np.float32)[None, :] - cx) / (shape[1] * rng.uniform(0.25, 0.4))
    labels[y * y + x * x + 0.2 * smooth_noise(rng, shape, 4) < 1] = count - 1
    return labels


def draw_regions(rng: np.random.Generator, shape: tuple[int, int], count: int) -> Array:
    """Divides a picture into ``count`` regions with irregular borders: int32 ``[H, W]``."""
    if count == 1:
        return np.zeros(shape, np.int32)
    while True:
        divide = (_bands, _cells, _pond)[int(rng.integers(0, 3))]
        labels = divide(rng, shape, count)
        if not _has_islands(labels, count):
            return labels
