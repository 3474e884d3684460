"""Instance centres, and the pixels that point to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Distances held at a time, in elements.
DISTANCE_ELEMENTS = 1 << 22


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
        row-major order; K may be 0.

    Raises:
        ValueError: an even or non-positive ``nms_kernel``.
    """
    if nms_kernel < 1 or nms_kernel % 2 == 0:
        raise ValueError(
            f"MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL is {nms_kernel}; it must be odd and at least 1."
        )
    height, width = heatmap.shape
    peaks = (heatmap == _window_max(heatmap, nms_kernel)) & (heatmap > threshold)
    # First come, first kept: among peaks of one window only ties are left. float64 counts every
    # pixel of any image exactly.
    order = torch.arange(height * width, 0, -1, device=heatmap.device, dtype=torch.float64)
    order = torch.where(peaks, order.view(height, width), 0.0)
    peaks &= order == _window_max(order, nms_kernel)
    centers = peaks.nonzero()
    scores, by_score = heatmap[peaks].sort(descending=True, stable=True)
    if top_k is not None:
        scores, by_score = scores[:top_k], by_score[:top_k]
    return centers[by_score], scores


def _window_max(image: Tensor, kernel: int) -> Tensor:
    return F.max_pool2d(image[None, None], kernel, stride=1, padding=kernel // 2)[0, 0]


def group_pixels(centers: Tensor, offsets: Tensor, thing_mask: Tensor) -> Tensor:
    """Assigns every thing pixel to the centre nearest to where its offset points.

    Args:
        centers: [K, 2] as (y, x), in pixels.
        offsets: [2, H, W] as (y, x), in pixels, from a pixel to its centre.
        thing_mask: [H, W] bool, the pixels to assign.

    Returns:
        [H, W] int64: 0 where nothing was assigned, else 1 + the centre's index. Between
        equally near centres the lower index wins. All 0 where there is no centre.
    """
    instances = torch.zeros_like(thing_mask, dtype=torch.int64)
    if len(centers) == 0:
        return instances
    y, x = thing_mask.nonzero(as_tuple=True)
    targets = torch.stack([y, x]) + offsets[:, y, x].float()  # [2, P]
    centers = centers.to(targets)
    nearest = torch.empty_like(y)
    chunk = max(1, DISTANCE_ELEMENTS // len(centers))
    for start in range(0, len(y), chunk):
        part = targets[:, start : start + chunk]
        distances = (part[0] - centers[:, :1]).square_()
        distances += (part[1] - centers[:, 1:]).square_()
        nearest[start : start + chunk] = distances.argmin(dim=0)
    instances[y, x] = nearest + 1
    return instances
