"""Panoptic segments as Detectron2 ``Instances``."""

from __future__ import annotations

import torch
from axial_d2.postprocessing.merging import PanopticSegments
from detectron2.structures import Boxes, Instances
from torch import Tensor


def to_instances(segments: PanopticSegments) -> Instances:
    """The thing segments, as Detectron2's evaluators take them; possibly none.

    Returns:
        Instances with ``pred_masks`` [K, H, W] bool, ``pred_boxes`` (x0, y0, x1, y1) around
        them in pixels, ``scores`` [K] and ``pred_classes`` [K] (contiguous ids).
    """
    instances = Instances(tuple(segments.ids.shape))
    things = segments.is_thing.nonzero().flatten()
    instances.pred_masks = segments.ids == (things + 1).to(segments.ids.dtype)[:, None, None]
    instances.pred_boxes = Boxes(_segment_boxes(segments.ids, len(segments.classes))[things])
    instances.scores = segments.scores[things]
    instances.pred_classes = segments.classes[things]
    return instances


def _segment_boxes(ids: Tensor, num_segments: int) -> Tensor:
    """Tight boxes of segments 1 … S, [S, 4] as (x0, y0, x1, y1); the far edges are exclusive."""
    height, width = ids.shape
    flat = ids.flatten().long()
    x = torch.arange(width, device=ids.device).expand(height, width).flatten()
    y = torch.arange(height, device=ids.device)[:, None].expand(height, width).flatten()
    sides = []
    for position, reduction in ((x, "amin"), (y, "amin"), (x + 1, "amax"), (y + 1, "amax")):
        initial = torch.zeros(num_segments + 1, dtype=torch.int64, device=ids.device)
        sides.append(initial.scatter_reduce_(0, flat, position, reduction, include_self=False)[1:])
    return torch.stack(sides, dim=1).float()
