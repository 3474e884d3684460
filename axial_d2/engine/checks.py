"""What can be known to fail before any work is done."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable

import torch
from axial_d2.data.classification_mapper import ClassificationMapper
from axial_d2.engine.ema import check_decay
from axial_d2.meta_arch.test_time_augmentation import check_test_time_augmentation
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

_SEMANTIC = (
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    lambda cfg: cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    "stuff_classes",
)
_RETINANET = (
    "MODEL.RETINANET.NUM_CLASSES",
    lambda cfg: cfg.MODEL.RETINANET.NUM_CLASSES,
    "thing_classes",
)
# Meta-architecture → (config key of its number of classes, its value, which classes of the data
# set).
CLASS_COUNTS: dict[str, tuple[str, Callable[[CfgNode], int], str]] = {
    "AxialDeepLab": _SEMANTIC,
    "PanopticDeepLab": _SEMANTIC,
    "SemanticSegmentor": _SEMANTIC,
    "ScaleAttentionSegmentor": _SEMANTIC,
    "SlidingWindowSegmentor": _SEMANTIC,
    "GeneralizedRCNN": (
        "MODEL.ROI_HEADS.NUM_CLASSES",
        lambda cfg: cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        "thing_classes",
    ),
    "RetinaNet": _RETINANET,
    "AttentionRetinaNet": _RETINANET,
    "ImageClassifier": (
        "MODEL.CLASSIFIER.NUM_CLASSES",
        lambda cfg: cfg.MODEL.CLASSIFIER.NUM_CLASSES,
        "classes",
    ),
}
# In their lower case these are in the names of our backbones; Detectron2's read MODEL.RESNETS.
BACKBONE_NODES = (
    "AXIAL_RESNET",
    "LOCAL_ATTENTION_RESNET",
    "MAX_DEEPLAB_S",
    "AXIAL_SWIDERNET",
    "VGG16_LARGEFOV",
)

# Meta-architecture → the nodes of ``cfg.MODEL`` with its heads' and its pyramid's norms.
HEAD_NODES = {
    "AxialDeepLab": ("SEM_SEG_HEAD", "INS_EMBED_HEAD"),
    "PanopticDeepLab": ("SEM_SEG_HEAD", "INS_EMBED_HEAD"),
    "SemanticSegmentor": ("SEM_SEG_HEAD",),
    "ScaleAttentionSegmentor": ("SEM_SEG_HEAD", "SCALE_ATTENTION"),
    "SlidingWindowSegmentor": ("SEM_SEG_HEAD",),
    "GeneralizedRCNN": ("FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD"),
    "RetinaNet": ("FPN", "RETINANET"),
    "AttentionRetinaNet": ("FPN", "RETINANET"),
}


def check_config(cfg: CfgNode) -> None:
    """Raises ValueError for a config that cannot work with its data sets or this machine."""
    _check_datasets(cfg)
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        _check_classification(cfg)
    _check_class_counts(cfg)
    _check_ignore_label(cfg)
    _check_crop(cfg)
    _check_ema(cfg)
    _warn_of_warm_up(cfg)
    if cfg.TEST.AUG.ENABLED:
        check_test_time_augmentation(cfg)
    _check_device(cfg)


def check_data_files(names: Iterable[str]) -> None:
    """Raises FileNotFoundError where the files of registered data sets are not there.

    Detectron2 registers COCO, Cityscapes and so on whether they are there or not, and notices when
    the model is built.
    """
    for name in names:
        metadata = MetadataCatalog.get(name)
        keys = ["image_root", "image_dir", "panoptic_json"]
        if not metadata.get("panoptic_json"):  # else instances may be derived
            keys.append("json_file")
        paths = [path for key in keys if isinstance(path := metadata.get(key), str)]
        absent = [path for path in paths if not PathManager.exists(path)]
        if absent:
            folder = os.environ.get("DETECTRON2_DATASETS", "datasets")
            raise FileNotFoundError(
                f"The data set {name} lacks {', '.join(absent)}. Detectron2's own data sets lie in "
                "the folder that the environment variable DETECTRON2_DATASETS names, now "
                f"{folder!r}; datasets/README.md of Detectron2 has their layout and preparation."
            )


def _check_datasets(cfg: CfgNode) -> None:
    registered = DatasetCatalog.list()
    for key in ("TRAIN", "TEST"):
        unknown = [name for name in cfg.DATASETS[key] if name not in registered]
        if unknown:
            raise ValueError(
                f"DATASETS.{key} names {unknown}, which are not registered. Registered are "
                f"{sorted(registered)}. Register your own with "
                "axial_d2.data.register_panoptic_dataset or DATASETS.PANOPTIC."
            )
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty; name at least one registered data set.")


def _check_classification(cfg: CfgNode) -> None:
    ClassificationMapper(cfg, is_train=True)  # for its errors
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if sampler == "RepeatFactorTrainingSampler":
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN is {sampler!r}, which counts annotated instances; images of "
            "one class each have none. Take 'TrainingSampler'."
        )
    lists = {
        name: MetadataCatalog.get(name).get("classes")
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    }
    for name, classes in lists.items():
        if not classes:
            raise ValueError(
                f"The data set {name} has no classes of images, which ImageClassifier learns. "
                "Register a folder of images with axial_d2.data.register_image_folder or "
                "DATASETS.IMAGE_FOLDERS."
            )
    first = cfg.DATASETS.TRAIN[0]
    for name, classes in lists.items():
        if classes != lists[first]:
            raise ValueError(
                f"The data sets {first} and {name} must have the same classes, but "
                f"{_class_difference(first, lists[first], name, classes)}."
            )


def _class_difference(first: str, its: list[str], second: str, others: list[str]) -> str:
    parts = []
    for name, classes, beside in ((first, its, others), (second, others, its)):
        alone = [c for c in classes if c not in set(beside)]
        if alone:
            more = ", …" if len(alone) > 5 else ""
            parts.append(f"{name} alone has {len(alone)} ({', '.join(alone[:5])}{more})")
    return "; ".join(parts) or "theirs are in another order; register both with the same one"


def _check_class_counts(cfg: CfgNode) -> None:
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in CLASS_COUNTS:
        return
    key, count, attribute = CLASS_COUNTS[architecture]
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        classes = MetadataCatalog.get(name).get(attribute)
        if classes is not None and len(classes) != count(cfg):
            raise ValueError(
                f"{key} is {count(cfg)}, but the data set {name} has {len(classes)} classes "
                f"({', '.join(classes[:5])}{', …' if len(classes) > 5 else ''}); set {key} to "
                f"{len(classes)}."
            )


def _check_ignore_label(cfg: CfgNode) -> None:
    if CLASS_COUNTS.get(cfg.MODEL.META_ARCHITECTURE) is not _SEMANTIC:
        return
    given = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    for name in cfg.DATASETS.TRAIN:
        label = MetadataCatalog.get(name).get("ignore_label", given)
        if label != given:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {given}, but the data set {name} labels "
                f"pixels without a class {label}; set MODEL.SEM_SEG_HEAD.IGNORE_VALUE to {label}."
            )


def _check_crop(cfg: CfgNode) -> None:
    crop = cfg.INPUT.CROP
    panoptic = cfg.MODEL.META_ARCHITECTURE in ("AxialDeepLab", "PanopticDeepLab")
    if panoptic and crop.ENABLED and crop.TYPE != "absolute":
        raise ValueError(
            f"INPUT.CROP.TYPE is {crop.TYPE!r}; Detectron2's Panoptic-DeepLab heads take "
            "'absolute' only, with INPUT.CROP.SIZE in pixels."
        )


def _check_ema(cfg: CfgNode) -> None:
    if not cfg.SOLVER.EMA.ENABLED:
        return
    check_decay(cfg.SOLVER.EMA.DECAY)
    if cfg.TEST.PRECISE_BN.ENABLED:
        raise ValueError(
            "TEST.PRECISE_BN.ENABLED computes statistics for the weights in training, but with "
            "SOLVER.EMA.ENABLED the averaged ones are tested and saved; set one of them False."
        )


def _warn_of_warm_up(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    if solver.WARMUP_ITERS >= solver.MAX_ITER > 0:
        logging.getLogger(__name__).warning(
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} is not less than SOLVER.MAX_ITER "
            f"{solver.MAX_ITER}: the learning rate never reaches SOLVER.BASE_LR. Lower "
            "WARMUP_ITERS with MAX_ITER."
        )


def _check_device(cfg: CfgNode) -> None:
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but this machine shows no GPU; give "
            "MODEL.DEVICE cpu."
        )
    if device.type == "cpu" and comm.get_world_size() > 1:
        nodes = (_backbone_node(cfg), *HEAD_NODES.get(cfg.MODEL.META_ARCHITECTURE, ()))
        synchronised = [f"MODEL.{node}.NORM" for node in nodes if cfg.MODEL[node].NORM == "SyncBN"]
        if synchronised:
            raise ValueError(
                f"{', '.join(synchronised)} is SyncBN, which PyTorch has on GPUs only; several "
                "processes on CPUs need naiveSyncBN."
            )


def _backbone_node(cfg: CfgNode) -> str:
    """The part of ``cfg.MODEL`` that the backbone reads."""
    name = cfg.MODEL.BACKBONE.NAME
    return next((node for node in BACKBONE_NODES if f"_{node.lower()}_" in name), "RESNETS")
