"""Panoptic segments as Detectron2 ``Instances``."""

from __future__ import annotations

import torch
from axial_d2.postprocessing.segments import PanopticSegments
from detectron2.structures import Boxes, Instances
from torch import Tensor


def to_instances(segments: PanopticSegments) -> Instances:
    """The thing segments, as Detectron2's evaluators take them; possibly none.

    Returns:
        Instances with ``pred_masks`` [K, H, W] bool, ``pred_boxes`` (x0, y0, x1, y1) around
        them in pixels, ``scores`` [K] and ``pred_classes`` [K] (contiguous ids), all on the
        device of ``segments.ids``.
    """
    ids = segments.ids
    things = segments.is_thing.nonzero().flatten()  # on the host, like all but the map
    number, scores, classes = (
        field.to(ids.device, non_blocking=True)
        for field in (things, segments.scores[things], segments.classes[things])
    )
    instances = Instances(tuple(ids.shape))
    # Single bytes are compared several times as fast.
    small = torch.uint8 if len(segments.classes) < 256 else ids.dtype
    instances.pred_masks = ids.to(small) == (number + 1).to(small)[:, None, None]
    instances.pred_boxes = Boxes(_segment_boxes(ids, len(segments.classes))[number])
    instances.scores = scores
    instances.pred_classes = classes
    return instances


def _segment_boxes(ids: Tensor, num_segments: int) -> Tensor:
    """Tight boxes of segments 1 … S, [S, 4] as (x0, y0, x1, y1); the far edges are exclusive."""
    height, width = ids.shape
    y = torch.arange(height, device=ids.device)[:, None]
    x = torch.arange(width, device=ids.device)
    top, bottom = _extent(ids, y, height, num_segments)
    left, right = _extent(ids, x, width, num_segments)
    return torch.stack([left, top, right, bottom], dim=1).float()


def _extent(ids: Tensor, position: Tensor, length: int, num_segments: int) -> tuple[Tensor, Tensor]:
    """First position and one past the last of segments 1 … S, [S] each.

    Args:
        position: of every pixel along one axis, broadcast over the map.
        length: of that axis.
    """
    occupied = torch.zeros((num_segments + 1) * length, dtype=torch.bool, device=ids.device)
    occupied.scatter_(0, (ids.long() * length + position).flatten(), True)
    rows = occupied.view(num_segments + 1, length)[1:]
    if num_segments == 0:
        return ids.new_zeros(0), ids.new_zeros(0)
    first = rows.byte().argmax(dim=1)
    return first, length - rows.flip(1).byte().argmax(dim=1)
