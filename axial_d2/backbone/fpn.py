"""Attention backbones under Detectron2's feature pyramid: RetinaNet, Faster and Mask R-CNN."""

from __future__ import annotations

import itertools
from typing import Any

from axial_d2.backbone.attention_resnet import AttentionResNet
from axial_d2.backbone.axial_resnet import AxialResNet
from axial_d2.backbone.local_attention_resnet import LocalAttentionResNet
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

BottomUp = type[AttentionResNet]


def _build_pyramid(bottom_up: BottomUp, cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """p2 … p6."""
    return _build_fpn(build_bottom_up(bottom_up, cfg, input_shape), cfg, LastLevelMaxPool())


def _build_retinanet_pyramid(bottom_up: BottomUp, cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """p3 … p7."""
    backbone = build_bottom_up(bottom_up, cfg, input_shape)
    feature, channels = top_input(backbone, cfg, f"{bottom_up.config_node}.OUT_FEATURES")
    top_block = LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, feature)
    return _build_fpn(backbone, cfg, top_block)


def _build_fpn(
    bottom_up: Backbone, cfg: CfgNode, top_block: LastLevelMaxPool | LastLevelP6P7
) -> FPN:
    return FPN(bottom_up=bottom_up, top_block=top_block, **fpn_arguments(cfg))


def fpn_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Detectron2's own arguments of its FPN, from ``MODEL.FPN``."""
    node = cfg.MODEL.FPN
    return {
        "in_features": node.IN_FEATURES,
        "out_channels": node.OUT_CHANNELS,
        "norm": node.NORM,
        "fuse_type": node.FUSE_TYPE,
    }


def top_input(bottom_up: Backbone, cfg: CfgNode, where: str) -> tuple[str, int]:
    """Name and channels of what p6 of a RetinaNet is made from, ``MODEL.FPN.TOP_INPUT``.

    Args:
        where: the config key of the features that the backbone returns, for errors.

    Raises:
        ValueError: neither a feature of the backbone nor the pyramid's coarsest level.
    """
    given, shapes = cfg.MODEL.FPN.TOP_INPUT, bottom_up.output_shape()
    coarsest = f"p{shapes[cfg.MODEL.FPN.IN_FEATURES[-1]].stride.bit_length() - 1}"
    if given == coarsest:
        return given, cfg.MODEL.FPN.OUT_CHANNELS
    if given not in shapes:
        raise ValueError(
            f"{where} {list(shapes)} lacks {given}, which p6 and p7 of a RetinaNet are made from; "
            "add it, or set MODEL.FPN.TOP_INPUT to one of them or to the pyramid's coarsest level "
            f"{coarsest}."
        )
    return given, shapes[given].channels


def build_bottom_up(
    backbone_class: BottomUp, cfg: CfgNode, input_shape: ShapeSpec
) -> AttentionResNet:
    """The backbone under a pyramid.

    Raises:
        ValueError: its features do not make a pyramid, each at twice the stride of the last.
    """
    node, where = backbone_class.node_of(cfg), backbone_class.config_node
    if node.OUTPUT_STRIDE != 32:
        raise ValueError(
            f"{where}.OUTPUT_STRIDE is {node.OUTPUT_STRIDE}; a feature pyramid needs each level at "
            "twice the stride of the one below, so set it to 32."
        )
    missing = sorted(set(cfg.MODEL.FPN.IN_FEATURES) - set(node.OUT_FEATURES))
    if missing or not cfg.MODEL.FPN.IN_FEATURES:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES {cfg.MODEL.FPN.IN_FEATURES} must be some of the backbone's "
            f"{where}.OUT_FEATURES {node.OUT_FEATURES}."
        )
    bottom_up = backbone_class(cfg, input_shape)
    strides = [bottom_up.output_shape()[name].stride for name in cfg.MODEL.FPN.IN_FEATURES]
    if any(fine * 2 != coarse for fine, coarse in itertools.pairwise(strides)):
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES {cfg.MODEL.FPN.IN_FEATURES} have strides {strides}; each must "
            "be twice the one before, so name neighbouring stages, such as res2, res3, res4, res5, "
            f"here and in {where}.OUT_FEATURES."
        )
    return bottom_up


@BACKBONE_REGISTRY.register()
def build_axial_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """p2 … p6 for Faster and Mask R-CNN, from ``MODEL.AXIAL_RESNET`` and ``MODEL.FPN``."""
    return _build_pyramid(AxialResNet, cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_retinanet_axial_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """p3 … p7 for RetinaNet, from ``MODEL.AXIAL_RESNET`` and ``MODEL.FPN``."""
    return _build_retinanet_pyramid(AxialResNet, cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_local_attention_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """p2 … p6 for Faster and Mask R-CNN, from ``MODEL.LOCAL_ATTENTION_RESNET``, ``MODEL.FPN``."""
    return _build_pyramid(LocalAttentionResNet, cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_retinanet_local_attention_resnet_fpn_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> FPN:
    """p3 … p7 for RetinaNet, from ``MODEL.LOCAL_ATTENTION_RESNET`` and ``MODEL.FPN``."""
    return _build_retinanet_pyramid(LocalAttentionResNet, cfg, input_shape)
