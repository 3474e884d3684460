"""From the network's maps to panoptic segments: pure functions on tensors."""

from axial_d2.postprocessing.grouping import find_centers, group_pixels
from axial_d2.postprocessing.instances import to_instances
from axial_d2.postprocessing.merging import PanopticSegments, merge_segments, panoptic_segments
from axial_d2.postprocessing.resize import resize_predictions

__all__ = [
    "PanopticSegments",
    "find_centers",
    "group_pixels",
    "merge_segments",
    "panoptic_segments",
    "resize_predictions",
    "to_instances",
]
