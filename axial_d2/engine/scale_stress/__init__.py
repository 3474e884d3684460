"""The paper's scale stress test: one checkpoint evaluated on inputs of many sizes."""

from axial_d2.engine.scale_stress.evaluate import (
    DEFAULT_RATIOS,
    check_scale_stress,
    evaluate_ratios,
    open_record,
)
from axial_d2.engine.scale_stress.figure import draw_curves
from axial_d2.engine.scale_stress.record import Evaluation, Record, Run
from axial_d2.engine.scale_stress.report import METRICS, check_baseline, curves, pick_metric, table
from axial_d2.engine.scale_stress.resize import RatioResize

__all__ = [
    "DEFAULT_RATIOS",
    "METRICS",
    "Evaluation",
    "RatioResize",
    "Record",
    "Run",
    "check_baseline",
    "check_scale_stress",
    "curves",
    "draw_curves",
    "evaluate_ratios",
    "open_record",
    "pick_metric",
    "table",
]
