"""Configs of DANet and of Attention to Scale: they build, agree with each other and the papers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from axial_d2.engine.checks import check_config
from axial_d2.engine.setup import load_config
from axial_d2.heads import DualAttentionHead
from axial_d2.meta_arch import ScaleAttentionSegmentor, SlidingWindowSegmentor
from detectron2.config import CfgNode
from detectron2.modeling import build_model

CONFIGS = Path(__file__).parents[1] / "configs"
DANET = sorted(CONFIGS.glob("*/dual_attention/[!B]*.yaml"))
SCALES = sorted(CONFIGS.glob("*/scale_attention/[!B]*.yaml"))
CITYSCAPES = [file for file in (*DANET, *SCALES) if file.parts[-3] == "cityscapes"]


def load(file: Path) -> CfgNode:
    return load_config(str(file), ["DATASETS.PANOPTIC", "[]", "MODEL.DEVICE", "cpu"])


def names(files: list[Path]) -> list[str]:
    return ["/".join(file.parts[-3:]) for file in files]


@pytest.mark.parametrize("file", [*DANET, *SCALES], ids=names([*DANET, *SCALES]))
def test_builds_and_is_checked(file: Path) -> None:
    cfg = load(file)
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        model = build_model(cfg)
    assert isinstance(model, SlidingWindowSegmentor)
    assert model.sem_seg_head.predictor.out_channels == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if file in DANET:
        assert isinstance(model.sem_seg_head, DualAttentionHead)
    elif file.stem != "single_scale":
        assert isinstance(model, ScaleAttentionSegmentor)
        assert model.scales == (1.0, 0.75, 0.5)
        assert (model.attention is None) == (file.stem in ("average", "maximum"))


@pytest.mark.parametrize("file", CITYSCAPES, ids=names(CITYSCAPES))
def test_cityscapes_protocol(file: Path) -> None:
    cfg = load(file)
    cfg.MODEL.DEVICE = "cpu"
    check_config(cfg)  # against Detectron2's own data sets
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER) == (8, 240 * 2975 // 8)
    assert tuple(cfg.INPUT.CROP.SIZE) == (768, 768)
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.LR_SCHEDULER_NAME) == ("SGD", "WarmupPolyLR")


def test_the_kinds_of_the_comparison_differ_in_what_their_names_say_alone() -> None:
    def differences(one: CfgNode, other: CfgNode) -> set[str]:
        keys = set()
        for key, value in one.items():
            if isinstance(value, CfgNode):
                keys |= {f"{key}.{each}" for each in differences(value, other[key])}
            elif value != other[key]:
                keys.add(key)
        return keys

    demo = CONFIGS / "demo"
    dual, convolutions = (
        load(demo / "dual_attention" / f"{kind}.yaml")
        for kind in ("dual_attention", "convolutions")
    )
    node = "MODEL.DUAL_ATTENTION"
    assert differences(dual, convolutions) == {f"{node}.POSITION_BRANCH", f"{node}.CHANNEL_BRANCH"}
    attention, average, maximum, single = (
        load(demo / "scale_attention" / f"{kind}.yaml")
        for kind in ("attention", "average", "maximum", "single_scale")
    )
    assert differences(attention, average) == {"MODEL.SCALE_ATTENTION.MERGING"}
    assert differences(attention, maximum) == {"MODEL.SCALE_ATTENTION.MERGING"}
    assert differences(attention, single) == {"MODEL.META_ARCHITECTURE"}
