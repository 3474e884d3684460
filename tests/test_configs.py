"""Every config file loads, agrees with its data set, and builds the model that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from axial_d2.backbone.stages import OUTPUT_CHANNELS, STAGE_NAMES, scale_channels
from axial_d2.data.synthetic.categories import CATEGORIES
from axial_d2.engine.checks import check_config
from axial_d2.engine.setup import WITHOUT_FILES, load_config
from axial_d2.meta_arch import AxialDeepLab
from axial_d2.solver import build_lr_scheduler, build_optimizer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from torch import nn

CONFIGS = Path(__file__).parents[1] / "configs"
# "Base-…" files are incomplete on purpose.
NAMES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("*.yaml")
    if not path.name.startswith("Base")
)
# Of semantic segmentation alone; tests/test_semantic_configs.py builds them.
SEMANTIC = [
    name for name in NAMES if Path(name).parent.name in ("dual_attention", "scale_attention")
]
# Of boxes and masks; tests/test_detection_configs.py builds them.
DETECTION = [name for name in NAMES if Path(name).parent.name == "detection"]
# Of classification; tests/test_classification_configs.py builds them.
CLASSIFICATION = [
    name for name in NAMES if Path(name).parent.name in ("imagenet", "classification")
]
PANOPTIC = [name for name in NAMES if name not in (*SEMANTIC, *DETECTION, *CLASSIFICATION)]
BASES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("Base*.yaml"))

WIDTHS = {"s": 0.5, "m": 0.75, "l": 1.0, "xl": 2.0}
# The paper's own models.
PAPER = [f"{d}/axial_deeplab_{s}.yaml" for d in ("cityscapes", "coco", "mapillary") for s in WIDTHS]
STRIDES = {"stem": 4, "res2": 4, "res3": 8, "res4": 16, "res5": 16}
# Prefix of data sets whose files nobody needs to have → number of things.
STAND_INS = {
    "axial_d2_demo": sum(bool(c["isthing"]) for c in CATEGORIES),
    "mapillary_vistas_v1.2_panoptic": 37,
    "mapillary_vistas_v2.0_panoptic": 70,
}


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    names = [f"{prefix}_{split}" for prefix in STAND_INS for split in ("train", "val")]
    for name in names:
        things = {id_: id_ for id_ in range(STAND_INS[name.rpartition("_")[0]])}
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(thing_dataset_id_to_contiguous_id=things)
    yield
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def is_panoptic(name: str) -> bool:
    text = (CONFIGS / name).read_text(encoding="utf-8")
    others = any(
        part in name for part in ("detection/", "imagenet/", "classification/", "Semantic")
    )
    return not others and "Semantic.yaml" not in text


def load(name: str) -> CfgNode:
    return load_config(str(CONFIGS / name), [*WITHOUT_FILES, "MODEL.DEVICE", "cpu"])


@pytest.mark.parametrize("name", PANOPTIC)
def test_builds_with_the_channels_of_its_width(name: str) -> None:
    cfg = load(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert isinstance(model, AxialDeepLab)
    width = type(model.backbone).node_of(cfg).WIDTH_MULTIPLIER
    shapes = model.backbone.output_shape()
    assert set(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES) <= set(shapes)
    for feature, shape in shapes.items():
        channels = OUTPUT_CHANNELS[STAGE_NAMES.index(feature)]
        assert shape.channels == scale_channels(channels, width)
        assert shape.stride == STRIDES[feature]
    assert model.sem_seg_head.predictor.out_channels == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_models(name: str) -> None:
    cfg = load(name)
    size = Path(name).stem.rpartition("_")[2]
    assert WIDTHS[size] == cfg.MODEL.AXIAL_RESNET.WIDTH_MULTIPLIER
    assert (cfg.MODEL.AXIAL_RESNET.DEPTH, cfg.MODEL.AXIAL_RESNET.STEM) == (50, "deeplab")
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR) == ("RADAM", 0.001)
    assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupPolyLR"
    protocol = {
        "coco": (65, 133, 64, 200_000, (1025, 1025)),
        "cityscapes": (65, 19, 32, 60_000, (1025, 2049)),
        "mapillary": (65, 65, 64, 150_000, (1025, 1025)),
    }[name.partition("/")[0]]
    assert protocol == (
        cfg.MODEL.AXIAL_RESNET.SPAN,
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.SOLVER.MAX_ITER,
        tuple(cfg.INPUT.CROP.SIZE),
    )
    check_config(cfg)  # against Detectron2's own names


def test_every_size_has_a_config() -> None:
    assert set(PAPER) <= set(NAMES)


@pytest.mark.parametrize(
    ("name", "usual_size", "tenths"),
    [
        ("coco", (480, 640), range(5, 16)),
        ("mapillary", (2448, 3264), range(5, 21)),
    ],
)
def test_training_scales_are_ratios_of_the_test_size(
    name: str, usual_size: tuple[int, int], tenths: range
) -> None:
    node = load(f"{name}/axial_deeplab_l.yaml").INPUT
    image = np.empty((*usual_size, 3), np.uint8)

    def width(shorter_side: int, longest: int) -> int:
        return T.ResizeShortestEdge(shorter_side, longest).get_transform(image).new_w

    at_test = width(node.MIN_SIZE_TEST, node.MAX_SIZE_TEST)
    ratios = [width(side, node.MAX_SIZE_TRAIN) / at_test for side in node.MIN_SIZE_TRAIN]
    assert ratios == pytest.approx([n / 10 for n in tenths], abs=0.001)


def test_the_demo_has_the_demos_classes() -> None:
    assert len(CATEGORIES) == load("demo/axial_deeplab_demo.yaml").MODEL.SEM_SEG_HEAD.NUM_CLASSES


@pytest.mark.parametrize("name", [*NAMES, *BASES])
def test_optimizer_and_schedule_exist(name: str) -> None:
    cfg = load(name)
    build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(1, 1)))


@pytest.mark.parametrize("name", [*PANOPTIC, *(name for name in BASES if is_panoptic(name))])
def test_sizes_and_norms_agree_with_each_other(name: str) -> None:
    cfg = load(name)
    heads = (cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.INS_EMBED_HEAD)
    assert {head.NORM for head in heads} == {cfg.MODEL.AXIAL_RESNET.NORM}
    assert all(len(head.PROJECT_CHANNELS) == len(head.IN_FEATURES) - 1 for head in heads)
    assert cfg.MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL % 2 == 1
    assert (
        cfg.MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV
        == cfg.MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV
    )
    if cfg.INPUT.CROP.ENABLED:
        assert max(cfg.INPUT.MIN_SIZE_TRAIN) <= cfg.INPUT.MAX_SIZE_TRAIN
