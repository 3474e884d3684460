"""From the network's maps to panoptic segments: pure functions on tensors."""

from axial_d2.postprocessing.centers import CenterSlots, find_center_slots, find_centers
from axial_d2.postprocessing.grouping import group_pixels
from axial_d2.postprocessing.instances import to_instances
from axial_d2.postprocessing.merging import (
    merge_segment_slots,
    merge_segments,
    panoptic_segment_slots,
    panoptic_segments,
)
from axial_d2.postprocessing.resize import resize_predictions
from axial_d2.postprocessing.segments import PanopticSegments, SegmentSlots

__all__ = [
    "CenterSlots",
    "PanopticSegments",
    "SegmentSlots",
    "find_center_slots",
    "find_centers",
    "group_pixels",
    "merge_segment_slots",
    "merge_segments",
    "panoptic_segment_slots",
    "panoptic_segments",
    "resize_predictions",
    "to_instances",
]
