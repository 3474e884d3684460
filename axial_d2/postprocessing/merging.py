"""Majority vote: class-agnostic instances and semantic classes become panoptic segments."""

from __future__ import annotations

from collections.abc import Collection

import torch
from axial_d2.postprocessing.centers import CenterSlots, find_center_slots
from axial_d2.postprocessing.classes import class_mask, most_probable
from axial_d2.postprocessing.grouping import group_pixels
from axial_d2.postprocessing.host import reads_are_free
from axial_d2.postprocessing.segments import PanopticSegments, SegmentSlots
from torch import Tensor


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
    return merge_segment_slots(
        semantic, probability, instances, center_scores, heatmap, is_thing_class, stuff_area
    ).read()


def merge_segment_slots(
    semantic: Tensor,
    probability: Tensor,
    instances: Tensor,
    center_scores: Tensor,
    heatmap: Tensor,
    is_thing_class: Tensor,
    stuff_area: int,
) -> SegmentSlots:
    """:func:`merge_segments` in K + C places, without reading anything from the device."""
    num_centers, num_classes = len(center_scores), len(is_thing_class)
    # A table of instance (row 0: none) by class has a cell for every pixel, and what is asked of
    # segments is asked of cells first.
    cells = (instances * num_classes).add_(semantic).flatten()
    shape = (num_centers + 1, num_classes)
    votes = _add_up(cells, torch.ones_like(cells), shape)
    # float32 loses a tenth of the sum over ten million pixels.
    sums = _add_up(cells, probability.flatten().double(), shape)
    highest = torch.zeros(shape, device=semantic.device).view(-1)
    if not reads_are_free(votes) or (votes[0] * is_thing_class).any():
        highest.scatter_reduce_(0, cells, heatmap.flatten().float(), "amax")

    # Provisional segments: instances first, then one for every class.
    every_class = torch.arange(num_classes, device=semantic.device)
    classes = torch.cat([votes[1:].argmax(dim=1), every_class])
    is_thing = is_thing_class[classes]
    areas = torch.cat([votes[1:].sum(dim=1), votes[0]])
    probability_sums = torch.cat([sums[1:].sum(dim=1), sums[0]])
    mean_probability = (probability_sums / areas.clamp(min=1)).float()
    peaks = torch.cat([center_scores.float(), highest[:num_classes]])
    scores = torch.where(is_thing, mean_probability * peaks, mean_probability).clamp(0, 1)

    kept = (areas > 0) & (is_thing | (areas >= stuff_area))
    new_ids = torch.where(kept, kept.cumsum(0), 0).int()
    id_of_cell = new_ids[:num_centers, None].expand(-1, num_classes)
    id_of_cell = torch.cat([new_ids[None, num_centers:], id_of_cell]).flatten()
    ids = id_of_cell.index_select(0, cells).view_as(semantic)
    return SegmentSlots.of(ids, kept, classes, is_thing, scores, areas)


def _add_up(cells: Tensor, numbers: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sum of the numbers of each cell."""
    flat = torch.zeros(shape[0] * shape[1], dtype=numbers.dtype, device=numbers.device)
    return flat.scatter_add_(0, cells, numbers).view(shape)


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
    return panoptic_segment_slots(
        probabilities,
        heatmap,
        offsets,
        thing_classes,
        stuff_area=stuff_area,
        threshold=threshold,
        nms_kernel=nms_kernel,
        top_k=top_k,
    ).read()


@torch.no_grad()
def panoptic_segment_slots(
    probabilities: Tensor,
    heatmap: Tensor,
    offsets: Tensor,
    thing_classes: Collection[int],
    *,
    stuff_area: int = 2048,
    threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int | None = 200,
) -> SegmentSlots:
    """:func:`panoptic_segments`, not yet read: the host waits for the device nowhere in it.

    With one exception: ``top_k=None`` asks the device how many centres there are, since there is
    room for very many. Without gradients.
    """
    probability, semantic = most_probable(probabilities)
    is_thing_class = class_mask(thing_classes, len(probabilities), heatmap.device)
    centers: CenterSlots = find_center_slots(heatmap, threshold, nms_kernel, top_k)
    if top_k is None or reads_are_free(heatmap):
        centers = centers.filled()
    thing_mask = is_thing_class.index_select(0, semantic.flatten()).view_as(semantic)
    instances = group_pixels(centers.positions, offsets, thing_mask, centers.valid)
    return merge_segment_slots(
        semantic, probability, instances, centers.scores, heatmap, is_thing_class, stuff_area
    )
