"""Backbones small enough for a test, from plain arguments and from a config."""

from __future__ import annotations

from typing import Any

import torch
from axial_d2 import add_axial_deeplab_config
from axial_d2.backbone import AxialResNet
from detectron2.config import CfgNode, get_cfg
from torch import Tensor, nn

FEATURES = ("stem", "res2", "res3", "res4", "res5")
TINY: dict[str, Any] = {
    "depth": 26,
    "width_multiplier": 0.125,
    "num_heads": 4,
    "max_span": 17,
    "out_features": FEATURES,
}


def tiny_backbone(**options: Any) -> AxialResNet:
    return AxialResNet(**{**TINY, **options})


def tiny_config(**keys: Any) -> CfgNode:
    """Keys under ``MODEL.AXIAL_RESNET``; nothing is frozen."""
    cfg = get_cfg()
    add_axial_deeplab_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_axial_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    node = cfg.MODEL.AXIAL_RESNET
    tiny = {name.upper(): value for name, value in TINY.items()}
    for name, value in {**tiny, "OUTPUT_STRIDE": 32, "NORM": "BN", **keys}.items():
        node[name] = list(value) if isinstance(value, tuple) else value
    return cfg


def shape_only(**options: Any) -> AxialResNet:
    """A backbone of any size at no cost: its parameters have no memory."""
    with torch.device("meta"):
        return AxialResNet(**{"out_features": FEATURES, **options})


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def ceil_div(size: int, stride: int) -> int:
    return -(-size // stride)


def let_branches_speak(module: nn.Module) -> None:
    """Norms away from their start; the last one of each block starts at weight 0."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
        elif name.endswith(("norm.weight", "norm.bias", "running_mean")):
            nn.init.normal_(tensor, std=0.5)


def assert_equal_maps(got: dict[str, Tensor], want: dict[str, Tensor], **tolerance: float) -> None:
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], **tolerance)
