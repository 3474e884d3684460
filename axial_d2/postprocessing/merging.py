"""Majority vote: class-agnostic instances and semantic classes become panoptic segments."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from axial_d2.postprocessing.grouping import find_centers, group_pixels
from torch import Tensor


class PanopticSegments(NamedTuple):
    """A panoptic segmentation, segment by segment.

    Attributes:
        ids: [H, W] int32; 0 is void, otherwise 1 + the segment's index in the fields below.
        classes: [S] int64, contiguous category ids.
        is_thing: [S] bool.
        scores: [S], in 0 … 1.
        areas: [S] int64, in pixels, never 0.
    """

    ids: Tensor
    classes: Tensor
    is_thing: Tensor
    scores: Tensor
    areas: Tensor

    def segments_info(self) -> list[dict]:
        """Detectron2's ``segments_info``: id, category_id, isthing, score and area of each."""
        return [
            {
                "id": index,
                "category_id": category,
                "isthing": thing,
                "score": score,
                "area": area,
            }
            for index, (category, thing, score, area) in enumerate(
                zip(
                    self.classes.tolist(),
                    self.is_thing.tolist(),
                    self.scores.tolist(),
                    self.areas.tolist(),
                    strict=True,
                ),
                start=1,
            )
        ]


def merge_segments(
    semantic: Tensor,
    probability: Tensor,
    instances: Tensor,
    center_scores: Tensor,
    heatmap: Tensor,
    is_thing_class: Tensor,
    stuff_area: int,
) -> PanopticSegments:
    """Majority vote of each instance's class, then stuff wherever no instance lies.

    An instance takes the most frequent class among its pixels; of equally frequent ones the
    lower id. Thing pixels without instance (there is no centre at all) form one segment a
    class. Stuff whose class covers less than ``stuff_area`` pixels becomes void. Segments come
    in the order: instances as numbered, leftover things and stuff by class id.

    A segment's score is its mean class probability, for things times the height of the
    heat-map at its centre (at its highest pixel where it has none).

    Args:
        semantic: [H, W] int64, contiguous class of every pixel.
        probability: [H, W], of that class.
        instances: [H, W] int64, 0 for none, else instance 1 … K; only on thing pixels.
        center_scores: [K].
        heatmap: [H, W].
        is_thing_class: [C] bool.
        stuff_area: in pixels.
    """
    num_centers, num_classes = len(center_scores), len(is_thing_class)
    votes = torch.zeros(num_centers * num_classes, dtype=torch.int64, device=semantic.device)
    assigned = instances > 0
    ballot = (instances[assigned] - 1) * num_classes + semantic[assigned]
    votes.scatter_add_(0, ballot, torch.ones_like(ballot))
    winners = votes.view(num_centers, num_classes).argmax(dim=1)

    # Provisional segments: instances first, then one for every class.
    segments = torch.where(assigned, instances - 1, num_centers + semantic).flatten()
    every_class = torch.arange(num_classes, device=semantic.device)
    classes = torch.cat([winners, every_class])
    is_thing = is_thing_class[classes]
    areas = torch.bincount(segments, minlength=len(classes))
    # float32 loses a tenth of the sum over ten million pixels.
    sums = torch.zeros(len(classes), dtype=torch.float64, device=semantic.device)
    sums.scatter_add_(0, segments, probability.flatten().double())
    mean_probability = (sums / areas.clamp(min=1)).float()
    highest = torch.zeros(len(classes), device=semantic.device).scatter_reduce_(
        0, segments, heatmap.flatten().float(), "amax"
    )
    peaks = torch.cat([center_scores.float(), highest[num_centers:]])
    scores = torch.where(is_thing, mean_probability * peaks, mean_probability).clamp(0, 1)

    kept = (areas > 0) & (is_thing | (areas >= stuff_area))
    new_ids = torch.where(kept, kept.cumsum(0), 0).int()
    return PanopticSegments(
        new_ids[segments].view_as(semantic),
        classes[kept],
        is_thing[kept],
        scores[kept],
        areas[kept],
    )


def panoptic_segments(
    probabilities: Tensor,
    heatmap: Tensor,
    offsets: Tensor,
    thing_classes: Collection[int],
    *,
    stuff_area: int = 2048,
    threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int | None = 200,
) -> PanopticSegments:
    """Panoptic segmentation from the network's maps (Panoptic-DeepLab, section 3.3).

    Args:
        probabilities: [C, H, W], semantic probability of every class; of equal ones the lower
            class id wins.
        heatmap: [H, W], centre heat-map.
        offsets: [2, H, W] as (y, x), in pixels, from a pixel to its centre.
        thing_classes: contiguous ids of the thing classes.
        stuff_area: smaller stuff becomes void, in pixels.
        threshold, nms_kernel, top_k: of :func:`.find_centers`.
    """
    probability, semantic = probabilities.max(dim=0)
    is_thing_class = torch.zeros(len(probabilities), dtype=torch.bool, device=heatmap.device)
    is_thing_class[list(thing_classes)] = True
    centers, center_scores = find_centers(heatmap, threshold, nms_kernel, top_k)
    instances = group_pixels(centers, offsets, is_thing_class[semantic])
    return merge_segments(
        semantic, probability, instances, center_scores, heatmap, is_thing_class, stuff_area
    )
