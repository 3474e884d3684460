"""Configs of detectors: they build, agree with their data, SASA's table and each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from axial_d2.backbone import AttentionFPN, AttentionP6P7, AxialResNet, LocalAttentionResNet
from axial_d2.engine.checks import check_config
from axial_d2.engine.setup import load_config
from axial_d2.heads import AttentionRetinaNetHead
from axial_d2.layers import LocalAttention
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import GeneralizedRCNN, RetinaNet
from torch import nn

CONFIGS = Path(__file__).parents[1] / "configs"
COCO = sorted(CONFIGS.glob("coco/detection/[!B]*.yaml"))
DEMO = sorted(CONFIGS.glob("demo/detection/[!B]*.yaml"))
# SASA, table 2, millions of parameters.
PARAMETERS = {
    "retinanet_resnet50": 33.4,
    "retinanet_sasa50": 25.9,
    "retinanet_sasa50_full": 25.9,
    "attention_retinanet_sasa50": 22.0,
    "attention_retinanet_sasa50_full": 22.0,
}


def load(file: Path) -> CfgNode:
    return load_config(str(file), ["DATASETS.PANOPTIC", "[]", "MODEL.DEVICE", "cpu"])


def build(file: Path) -> nn.Module:
    cfg = load(file)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def names(files: list[Path]) -> list[str]:
    return ["/".join((file.parts[-3], file.stem)) for file in files]


@pytest.mark.parametrize("file", [*COCO, *DEMO], ids=names([*COCO, *DEMO]))
def test_builds(file: Path) -> None:
    model = build(file)
    assert isinstance(model, RetinaNet if "retinanet" in file.stem else GeneralizedRCNN)
    attention = file.stem.startswith("attention")
    if isinstance(model, RetinaNet):
        assert isinstance(model.head, AttentionRetinaNetHead) == attention
    assert isinstance(model.backbone, AttentionFPN) == attention
    kind = AxialResNet if "axial" in file.stem else LocalAttentionResNet
    assert isinstance(model.backbone.bottom_up, kind)
    # From scratch nothing may be frozen; from ImageNet's weights the first two stages are.
    frozen = not all(p.requires_grad for p in model.backbone.parameters())
    assert frozen == (file in COCO and isinstance(model, GeneralizedRCNN))


@pytest.mark.parametrize("file", COCO, ids=names(COCO))
def test_agrees_with_detectron2s_data_set(file: Path) -> None:
    check_config(load(file))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_the_papers_rows(name: str) -> None:
    model = build(CONFIGS / "coco" / "detection" / f"{name}.yaml")
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(PARAMETERS[name], rel=0.02)


def test_every_row_of_the_paper_has_a_small_one() -> None:
    small = {file.stem for file in DEMO}
    for name in PARAMETERS:
        kind = name.replace("resnet50", "conv").replace("sasa50_full", "full_local")
        assert kind.replace("sasa50", "local") in small


def test_the_papers_attention_heads() -> None:
    """256 channels, windows of 7×7, 8 heads, five layers a branch; FPN by its parameters."""
    model = build(CONFIGS / "coco" / "detection" / "attention_retinanet_sasa50.yaml")
    layers = [m for m in model.head.modules() if isinstance(m, LocalAttention)]
    assert len(layers) == 2 * 5
    assert {(m.num_heads, m.span, m.qkv.out_channels) for m in layers} == {(8, 7, 3 * 256)}
    assert not any(isinstance(m, LocalAttention) for m in model.backbone.top_block.modules())


def test_the_paper_by_its_text() -> None:
    model = build(CONFIGS / "coco" / "detection" / "attention_retinanet_sasa50_full_fpn.yaml")
    assert isinstance(model.backbone.top_block, AttentionP6P7)
    kernels = {m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {(1, 1)}


def test_a_small_row_without_any_window_but_attentions() -> None:
    model = build(CONFIGS / "demo" / "detection" / "attention_retinanet_full_local.yaml")
    assert {m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}
