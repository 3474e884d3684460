"""LocalAttentionResNets small enough for a test, and what the attention layers of one are."""

from __future__ import annotations

from typing import Any

import torch
from axial_d2 import add_axial_deeplab_config
from axial_d2.backbone import LocalAttentionResNet
from axial_d2.layers import (
    AxialAttention,
    GlobalAttention,
    LocalAttention,
    PositionSensitiveLocalAttention,
)
from detectron2.config import CfgNode, get_cfg
from tiny_backbones import FEATURES
from torch import nn

# Heads of 4 channels in the narrowest stage.
TINY_LOCAL: dict[str, Any] = {
    "depth": 26,
    "width_multiplier": 0.125,
    "num_heads": 4,
    "span": 3,
    "max_span": 9,
    "out_features": FEATURES,
    "attention_impl": "reference",
}
ATTENTIONS = (AxialAttention, GlobalAttention, LocalAttention, PositionSensitiveLocalAttention)


def tiny_local(**options: Any) -> LocalAttentionResNet:
    return LocalAttentionResNet(**{**TINY_LOCAL, **options})


def tiny_local_config(**keys: Any) -> CfgNode:
    """Keys under ``MODEL.LOCAL_ATTENTION_RESNET``; nothing is frozen."""
    cfg = get_cfg()
    add_axial_deeplab_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_local_attention_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    node = cfg.MODEL.LOCAL_ATTENTION_RESNET
    tiny = {name.upper(): value for name, value in TINY_LOCAL.items()}
    for name, value in {**tiny, "OUTPUT_STRIDE": 32, "NORM": "BN", **keys}.items():
        node[name] = list(value) if isinstance(value, tuple) else value
    return cfg


def local_shape_only(**options: Any) -> LocalAttentionResNet:
    """A backbone of any size at no cost: its parameters have no memory."""
    with torch.device("meta"):
        return LocalAttentionResNet(**{"out_features": FEATURES, **options})


def attentions(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, ATTENTIONS)]
