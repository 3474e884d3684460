"""Predictions and ground truth as pictures and videos, drawn with Detectron2's visualizers."""

from axial_d2.visualization.pictures import (
    PanopticVisualizer,
    comparison,
    confident,
    contact_sheet,
    draw_ground_truth,
    draw_map,
    draw_prediction,
    legible_scale,
    side_by_side,
)
from axial_d2.visualization.video import VIDEO_ENCODERS, Video, draw_frame, open_writer

__all__ = [
    "VIDEO_ENCODERS",
    "PanopticVisualizer",
    "Video",
    "comparison",
    "confident",
    "contact_sheet",
    "draw_frame",
    "draw_ground_truth",
    "draw_map",
    "draw_prediction",
    "legible_scale",
    "open_writer",
    "side_by_side",
]
