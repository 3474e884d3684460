"""Which evaluators a data set's ``evaluator_type`` and a model's outputs call for."""

from __future__ import annotations

import os
from collections.abc import Callable

from axial_d2.evaluation.classification import ClassificationEvaluator
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)

EvaluatorFactory = Callable[[str, str], DatasetEvaluator]

SEMANTIC_ARCHITECTURES = (
    "SemanticSegmentor",
    "ScaleAttentionSegmentor",
    "SlidingWindowSegmentor",
)
CLASSIFIERS = ("ImageClassifier",)
PANOPTIC_ARCHITECTURES = ("AxialDeepLab", "PanopticDeepLab", "PanopticFPN")

# Detectron2's panoptic COCO names hold stuff among their classes, which COCOEvaluator refuses.
COCO_INSTANCES = {
    "coco_2017_train_panoptic": "coco_2017_train",
    "coco_2017_val_panoptic": "coco_2017_val",
    "coco_2017_val_100_panoptic": "coco_2017_val_100",
}


def _coco(dataset_name: str, output_dir: str) -> DatasetEvaluator:
    return COCOEvaluator(COCO_INSTANCES.get(dataset_name, dataset_name), output_dir=output_dir)


def _semantic(dataset_name: str, output_dir: str) -> DatasetEvaluator:
    return SemSegEvaluator(dataset_name, distributed=True, output_dir=output_dir)


def _panoptic(dataset_name: str, output_dir: str) -> DatasetEvaluator:
    return COCOPanopticEvaluator(dataset_name, output_dir)


# evaluator_type → what each output of a model is measured by.
EVALUATORS: dict[str, dict[str, EvaluatorFactory]] = {
    "coco_panoptic_seg": {
        "panoptic_seg": _panoptic,
        "sem_seg": _semantic,
        "instances": _coco,
    },
    "cityscapes_panoptic_seg": {
        "panoptic_seg": _panoptic,
        "sem_seg": lambda name, _: CityscapesSemSegEvaluator(name),
        "instances": lambda name, _: CityscapesInstanceEvaluator(name),
    },
    "cityscapes_instance": {"instances": lambda name, _: CityscapesInstanceEvaluator(name)},
    "cityscapes_sem_seg": {"sem_seg": lambda name, _: CityscapesSemSegEvaluator(name)},
    "sem_seg": {"sem_seg": _semantic},
    "coco": {"instances": _coco},
    "lvis": {"instances": lambda name, out: LVISEvaluator(name, output_dir=out)},
    "classification": {"logits": lambda name, out: ClassificationEvaluator(name, out)},
    "pascal_voc": {"instances": lambda name, _: PascalVOCDetectionEvaluator(name)},
}


def model_outputs(cfg: CfgNode) -> tuple[str, ...]:
    """Names of what the configured model predicts."""
    if cfg.MODEL.META_ARCHITECTURE in PANOPTIC_ARCHITECTURES:
        return ("panoptic_seg", "sem_seg", "instances")
    if cfg.MODEL.META_ARCHITECTURE in SEMANTIC_ARCHITECTURES:
        return ("sem_seg",)
    if cfg.MODEL.META_ARCHITECTURE in CLASSIFIERS:
        return ("logits",)
    return ("instances",)


def build_evaluators(
    cfg: CfgNode, dataset_name: str, output_dir: str | None = None
) -> DatasetEvaluators:
    """Every evaluator that the data set's type and the model's outputs call for.

    Args:
        cfg: its ``MODEL.META_ARCHITECTURE`` says what is predicted.
        dataset_name: registered, with ``evaluator_type`` in its metadata.
        output_dir: for predictions and intermediate files; default ``OUTPUT_DIR/inference``.

    Raises:
        ValueError: the data set has no known ``evaluator_type``, or none for these outputs.
    """
    output_dir = output_dir or os.path.join(cfg.OUTPUT_DIR, "inference")
    metadata = MetadataCatalog.get(dataset_name)
    evaluator_type = metadata.get("evaluator_type")
    if evaluator_type not in EVALUATORS:
        raise ValueError(
            f"the data set {dataset_name} has evaluator_type {evaluator_type!r}; set one of "
            f"{tuple(EVALUATORS)} in its metadata, or register it with "
            "axial_d2.data.register_panoptic_dataset or register_image_folder."
        )
    factories = EVALUATORS[evaluator_type]
    outputs = [name for name in model_outputs(cfg) if name in factories]
    if evaluator_type == "coco_panoptic_seg" and not metadata.get("sem_seg_root"):
        # Detectron2's built-in panoptic COCO comes without semantic ground truth.
        outputs = [name for name in outputs if name != "sem_seg"]
    if not outputs:
        raise ValueError(
            f"{cfg.MODEL.META_ARCHITECTURE} predicts {model_outputs(cfg)}, none of which the "
            f"evaluator_type {evaluator_type!r} of {dataset_name} can measure."
        )
    return DatasetEvaluators([factories[name](dataset_name, output_dir) for name in outputs])
