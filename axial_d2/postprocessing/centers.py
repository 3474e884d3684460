"""Instance centres: the peaks of the heat-map."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class CenterSlots(NamedTuple):
    """Centres in a number of places that does not depend on the heat-map.

    They come by falling score, equal scores in row-major order; the empty places are last.

    Attributes:
        positions: [K, 2] int64 as (y, x), in pixels; (0, 0) in an empty place.
        scores: [K], 0 in an empty place.
        valid: [K] bool, false in an empty place.
    """

    positions: Tensor
    scores: Tensor
    valid: Tensor

    def filled(self) -> CenterSlots:
        """Without the empty places; asks the device how many there are."""
        count = int(self.valid.sum())
        return CenterSlots(self.positions[:count], self.scores[:count], self.valid[:count])


def find_centers(
    heatmap: Tensor, threshold: float = 0.1, nms_kernel: int = 7, top_k: int | None = 200
) -> tuple[Tensor, Tensor]:
    """Local maxima of the centre heat-map.

    A pixel is a centre where it is above the threshold and the highest of its
    ``nms_kernel`` × ``nms_kernel`` window. Of equally high peaks, one is kept only if none before
    it in row-major order lies in its window, so that a plateau as large as the window or smaller
    is one centre.

    Args:
        heatmap: [H, W], any size.
        threshold: centres are strictly above it.
        nms_kernel: odd length of the window, in pixels.
        top_k: the highest this many are kept; None keeps all.

    Returns:
        Centres [K, 2] int64 as (y, x) and their scores [K], by falling score, equal scores in
        row-major order; K may be 0. Their number is asked of the device;
        :func:`find_center_slots` does without.

    Raises:
        ValueError: an even or non-positive ``nms_kernel``.
    """
    positions, scores, _ = find_center_slots(heatmap, threshold, nms_kernel, top_k).filled()
    return positions, scores


def find_center_slots(
    heatmap: Tensor, threshold: float = 0.1, nms_kernel: int = 7, top_k: int | None = 200
) -> CenterSlots:
    """:func:`find_centers` in ``top_k`` places, or as many as the map has room for if fewer."""
    if nms_kernel < 1 or nms_kernel % 2 == 0:
        raise ValueError(
            f"MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL is {nms_kernel}; it must be odd and at least 1."
        )
    height, width = heatmap.shape
    num_pixels = height * width
    first = _sparse_peaks(heatmap, threshold, nms_kernel)
    # In row-major order, so that the stable sort by score leaves equal ones in it.
    pixels = first.sort(stable=True).values.long()
    scores = heatmap.flatten()[pixels.clamp(max=num_pixels - 1)]
    scores = torch.where(pixels < num_pixels, scores, -torch.inf)
    scores, by_score = scores.sort(descending=True, stable=True)
    pixels, scores = pixels[by_score[:top_k]], scores[:top_k]
    valid = pixels < num_pixels
    pixels = torch.where(valid, pixels, 0)
    row = torch.div(pixels, width, rounding_mode="floor")
    positions = torch.stack([row, pixels - row * width], dim=1)
    return CenterSlots(positions, torch.where(valid, scores, 0), valid)


def _sparse_peaks(heatmap: Tensor, threshold: float, nms_kernel: int) -> Tensor:
    """Row-major indices of all peaks, H·W in place of a missing one: int, any order.

    No two peaks lie in one window. Tiles a little larger than half a window therefore hold one
    at most, and as many places as there are tiles hold them all.
    """
    height, width = heatmap.shape
    num_pixels = height * width
    peaks = (heatmap == _window_max(heatmap, nms_kernel)) & (heatmap > threshold)
    # First come, first kept: among peaks of one window only ties are left.
    dtype = torch.int32 if num_pixels < 1 << 31 else torch.int64
    rank = torch.arange(num_pixels, 0, -1, device=heatmap.device, dtype=dtype)
    rank = torch.where(peaks, rank.view(height, width), 0)
    rank = torch.where(rank == _window_max(rank, nms_kernel), rank, 0)
    tile = nms_kernel // 2 + 1
    rank = F.pad(rank, (0, -width % tile, 0, -height % tile))
    tiles = rank.unflatten(1, (-1, tile)).unflatten(0, (-1, tile))
    return num_pixels - tiles.amax(dim=1).amax(dim=2).flatten()


def _window_max(image: Tensor, kernel: int) -> Tensor:
    """Maximum over the window around every pixel; along rows, then along columns."""
    reach = kernel // 2
    lowest = -torch.inf if image.is_floating_point() else torch.iinfo(image.dtype).min
    image = F.pad(image, (reach,) * 4, value=lowest)
    return _running_max(_running_max(image, kernel, 0), kernel, 1)


def _running_max(image: Tensor, length: int, dim: int) -> Tensor:
    """Maximum over every stretch of ``length``, in about log2(length) steps."""
    covered = 1
    while covered < length:
        step = min(covered, length - covered)
        rest = image.shape[dim] - step
        image = torch.maximum(image.narrow(dim, 0, rest), image.narrow(dim, step, rest))
        covered += step
    return image
