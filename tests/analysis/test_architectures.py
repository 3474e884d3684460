"""Configs of every meta-architecture are counted; test_fidelity.py has the published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from axial_d2.analysis import ModelCost, analyze, networks
from axial_d2.engine.setup import WITHOUT_FILES, load_config, read_config
from axial_d2.engine.skeleton import build_without_data
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import RetinaNet

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
NAMES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("*.yaml")
    if not path.name.startswith("Base")
)

RESNET18 = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
FPN = [
    "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
    "MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']",
]  # fmt: skip
RETINANET = [
    *RESNET18,
    "MODEL.META_ARCHITECTURE", "RetinaNet",
    "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES", "['res3', 'res4', 'res5']",
    "MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']",
]  # fmt: skip
SEMANTIC_FPN = [
    *RESNET18,
    *FPN,
    "MODEL.META_ARCHITECTURE", "SemanticSegmentor",
    "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone",
    "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p3', 'p4', 'p5']",
]  # fmt: skip
PANOPTIC_DEEPLAB = [
    "MODEL.META_ARCHITECTURE", "PanopticDeepLab",
    "MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone",
    "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res5']",
    "MODEL.SEM_SEG_HEAD.NAME", "PanopticDeepLabSemSegHead",
    "MODEL.INS_EMBED_HEAD.NAME", "PanopticDeepLabInsEmbedHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res3', 'res5']",
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", "[32, 64]",
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV", "True",
    "MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV", "True",
    "INPUT.CROP.ENABLED", "True",
    "INPUT.CROP.TYPE", "absolute",
    "INPUT.CROP.SIZE", "[64, 96]",
]  # fmt: skip
RCNN = [*RESNET18, "MODEL.META_ARCHITECTURE", "GeneralizedRCNN"]


TRAINING_ONLY = "sem_seg_head.branch_predictors"


def load(name: str, *opts: object) -> CfgNode:
    path = str(ROOT / name) if name else ""
    no_data = [*WITHOUT_FILES, "MODEL.DEVICE", "cpu"]
    return load_config(path, [*map(str, opts), *no_data])


def assert_complete(cost: ModelCost) -> None:
    assert cost.unsupported_operators == {}
    assert cost.uncalled_modules == ()


def one_of_each_kind(names: list[str]) -> list[Any]:
    """All as parameters; what differs from an earlier one in sizes alone is slow."""
    seen, parameters = set(), []
    for name in names:
        model = read_config(str(CONFIGS / name)).MODEL
        stems = [node.STEM for node in (model.AXIAL_RESNET, model.LOCAL_ATTENTION_RESNET)]
        types = [str(model.AXIAL_RESNET.STAGE_TYPES), str(model.LOCAL_ATTENTION_RESNET.STAGE_TYPES)]
        heads = (model.SEM_SEG_HEAD.NAME, model.MASK_ON, model.SCALE_ATTENTION.MERGING)
        kind = (model.META_ARCHITECTURE, model.BACKBONE.NAME, *stems, *types, *heads)
        parameters.append(pytest.param(name, marks=pytest.mark.slow if kind in seen else ()))
        seen.add(kind)
    return parameters


@pytest.mark.parametrize("name", one_of_each_kind(NAMES))
def test_every_config_is_counted_to_the_last_operator(name: str) -> None:
    cfg = load(f"configs/{name}")
    cost = analyze(cfg, (65, 129))
    assert cost.unsupported_operators == {}
    # DANet's classifiers of each branch are for training.
    assert all(name.startswith(TRAINING_ONLY) for name in cost.uncalled_modules)
    assert cost.depends_on_data == (cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN")
    parts = [part for module, part in cost.by_module.items() if module and "." not in module]
    assert cost.parameters == sum(part.parameters for part in parts)
    assert cost.multiply_adds == sum(cost.by_operator.values()) > 0


@pytest.mark.parametrize("stage", ["local", "local_ps", "global", "conv"])
def test_every_kind_of_stage_is_counted(stage: str) -> None:
    node = "MODEL.AXIAL_RESNET"
    cfg = load(
        "tests/engine/tiny.yaml", f"{node}.STAGE_TYPES", [stage] * 4, f"{node}.SPAN", 5,
    )  # fmt: skip
    cost = analyze(cfg, (41, 57))
    assert_complete(cost)
    assert any("attention" in name for name in cost.by_operator) == (stage != "conv")


@pytest.mark.parametrize("stem", ["axial", "attention"])
def test_every_kind_of_stem_is_counted(stem: str) -> None:
    width = ["MODEL.AXIAL_RESNET.STEM_WIDTH_MULTIPLIER", 0.25]
    cfg = load("tests/engine/tiny.yaml", "MODEL.AXIAL_RESNET.STEM", stem, *width)
    assert_complete(analyze(cfg, (41, 57)))


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
def test_the_configs_implementation_changes_nothing(implementation: str) -> None:
    key = "MODEL.AXIAL_RESNET.ATTENTION_IMPL"
    auto, other = (
        analyze(load("tests/engine/tiny.yaml", key, value), (41, 57))
        for value in ("auto", implementation)
    )
    assert auto == other


def test_a_config_and_its_model_cost_the_same() -> None:
    cfg = load("tests/engine/tiny.yaml", "DATASETS.TRAIN", "('coco_2017_train_panoptic',)")
    model = build_model(cfg)
    assert analyze(model, (41, 57)) == analyze(cfg, (41, 57))
    backbone, whole = analyze(model.backbone, (41, 57)), analyze(model, (41, 57))
    assert backbone.by_module[""] == whole.by_module["backbone"]


@pytest.mark.parametrize("opts", [SEMANTIC_FPN, PANOPTIC_DEEPLAB], ids=["semantic", "panoptic"])
def test_detectron2s_segmentors(opts: list[str]) -> None:
    cost = analyze(load("", *opts), (64, 96))
    assert_complete(cost)
    assert not cost.depends_on_data
    assert cost.by_module["backbone"].multiply_adds < cost.multiply_adds


def test_retinanets_network_is_all_that_it_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load("", *RETINANET)
    without_memory = analyze(cfg, (60, 90))
    monkeypatch.delitem(networks.NETWORKS, RetinaNet)
    whole = analyze(cfg, (60, 90))
    assert (without_memory.depends_on_data, whole.depends_on_data) == (False, True)
    assert without_memory.input_shape[2:] == (64, 96)
    for count in ("parameters", "multiply_adds", "activations", "by_operator"):
        assert getattr(without_memory, count) == getattr(whole, count)
    head = "head.cls_score"
    assert without_memory.by_module[head] == whole.by_module[head]
    assert_complete(without_memory)
    assert_complete(whole)


def test_an_rcnn_is_counted_with_the_boxes_that_it_finds() -> None:
    cfg = load("", *RCNN)
    cost = analyze(cfg, (64, 96))
    assert cost.depends_on_data
    assert cost == analyze(cfg, (64, 96))
    assert_complete(cost)
    model = build_model(cfg)
    assert cost.by_module["backbone"] == analyze(model.backbone, (64, 96)).by_module[""]
    assert cost.by_module["proposal_generator"].multiply_adds > 0


def test_a_model_that_computes_is_left_as_it_was() -> None:
    model = build_model(load("", *RCNN))
    model.train()
    model.backbone.eval()
    before = {name: module.training for name, module in model.named_modules()}
    analyze(model, (64, 96))
    assert {name: module.training for name, module in model.named_modules()} == before


def test_no_stand_in_data_set_stays() -> None:
    cfg = load("tests/engine/tiny.yaml")
    before = set(MetadataCatalog), set(DatasetCatalog)
    analyze(cfg, (41, 57))
    assert (set(MetadataCatalog), set(DatasetCatalog)) == before


def test_aligned_corners_are_counted_with_their_padding() -> None:
    """To one more than a multiple of the stride, as the model itself pads."""
    name = "configs/cityscapes/deeplab2/max_deeplab_s_backbone.yaml"
    cfg = load(name, "MODEL.MAX_DEEPLAB_S.WIDTH_MULTIPLIER", 0.125)
    for size, padded in (((65, 97), (65, 97)), ((64, 96), (65, 97)), ((1, 50), (1, 65))):
        cost = analyze(cfg, size)
        assert cost.input_shape == (1, 3, *padded)
        model = build_without_data(cfg, "cpu")
        image = torch.zeros(3, *size)
        assert cost.input_shape == tuple(model._images([{"image": image}]).shape)
    assert analyze(cfg, (64, 96)) == analyze(cfg, (65, 97))
