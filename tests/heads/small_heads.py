"""Heads of a few channels, built from plain arguments."""

from __future__ import annotations

import torch
from axial_d2.heads import AxialDeepLabInsEmbedHead, AxialDeepLabSemSegHead
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

SHAPES = {
    "res2": ShapeSpec(channels=12, stride=4),
    "res3": ShapeSpec(channels=16, stride=8),
    "res5": ShapeSpec(channels=24, stride=16),
}
COMMON = {
    "input_shape": SHAPES,
    "project_channels": [4, 6],
    "decoder_channels": [10, 10, 14],
    "common_stride": 4,
    "norm": "BN",
    "use_depthwise_separable_conv": True,
    "aspp_dilations": [1, 2, 3],
    "aspp_dropout": 0.1,
}
SEMANTIC = {
    "head_channels": 9,
    "num_classes": 5,
    "loss_weight": 1.0,
    "loss_type": "hard_pixel_mining",
    "loss_top_k": 0.2,
    "ignore_value": 255,
}
INSTANCE = {"head_channels": 7, "center_loss_weight": 200.0, "offset_loss_weight": 0.01}


def semantic_head(**changes) -> nn.Module:
    return AxialDeepLabSemSegHead(**{**COMMON, **SEMANTIC, **changes}).eval()


def instance_head(**changes) -> nn.Module:
    return AxialDeepLabInsEmbedHead(**{**COMMON, **INSTANCE, **changes}).eval()


def features(height: int = 32, width: int = 48, batch: int = 2) -> dict[str, Tensor]:
    return {
        name: torch.randn(batch, s.channels, -(-height // s.stride), -(-width // s.stride))
        for name, s in SHAPES.items()
    }
