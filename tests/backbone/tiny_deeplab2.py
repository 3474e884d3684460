"""DeepLab2's backbones small enough for a test, from plain arguments and from a config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from axial_d2 import add_axial_deeplab_config
from axial_d2.backbone import AxialSWideRNet, MaXDeepLabSBackbone
from axial_d2.backbone.conv_axial_resnet import ConvAxialResNet
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import CNNBlockBase
from tiny_backbones import FEATURES, ceil_div
from torch import nn

BACKBONES = [MaXDeepLabSBackbone, AxialSWideRNet]
BUILDERS = {
    MaXDeepLabSBackbone: "build_max_deeplab_s_backbone",
    AxialSWideRNet: "build_axial_swidernet_backbone",
}
TINY: dict[str, Any] = {
    "layer_multiplier": 0.67,
    "width_multiplier": 0.0625,
    "num_heads": 2,
    "max_span": 9,
    "out_features": FEATURES,
}


def tiny(backbone: type[ConvAxialResNet], **options: Any) -> ConvAxialResNet:
    return backbone(**{**TINY, **options})


def shape_only(backbone: type[ConvAxialResNet], **options: Any) -> ConvAxialResNet:
    with torch.device("meta"):
        return backbone(**{"out_features": FEATURES, **options})


def blocks_of(backbone: nn.Module) -> Iterator[tuple[str, CNNBlockBase]]:
    for stage in FEATURES[1:]:
        for index, block in enumerate(getattr(backbone, stage)):
            yield f"{stage}.{index}", block


def check_sizes(model: ConvAxialResNet, size: tuple[int, int]) -> None:
    with torch.no_grad():
        features = model(torch.randn(1, 3, *size))
    shapes = model.output_shape()
    assert features.keys() == shapes.keys()
    for name, feature in features.items():
        expected = [ceil_div(extent, shapes[name].stride) for extent in size]
        assert list(feature.shape) == [1, shapes[name].channels, *expected], name
        assert feature.isfinite().all(), name


def tiny_config(backbone: type[ConvAxialResNet], **keys: Any) -> CfgNode:
    cfg = get_cfg()
    add_axial_deeplab_config(cfg)
    cfg.MODEL.BACKBONE.NAME = BUILDERS[backbone]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    node = backbone.node_of(cfg)
    values = {name.upper(): value for name, value in TINY.items()}
    for name, value in {**values, "NORM": "BN", **keys}.items():
        node[name] = list(value) if isinstance(value, tuple) else value
    return cfg
