"""Evaluators, Detectron2's and those it lacks, chosen by a data set's ``evaluator_type``."""

from axial_d2.evaluation.classification import ClassificationEvaluator
from axial_d2.evaluation.table import (
    COCO_INSTANCES,
    EVALUATORS,
    PANOPTIC_ARCHITECTURES,
    SEMANTIC_ARCHITECTURES,
    EvaluatorFactory,
    build_evaluators,
    model_outputs,
)

__all__ = [
    "COCO_INSTANCES",
    "EVALUATORS",
    "PANOPTIC_ARCHITECTURES",
    "SEMANTIC_ARCHITECTURES",
    "ClassificationEvaluator",
    "EvaluatorFactory",
    "build_evaluators",
    "model_outputs",
]
