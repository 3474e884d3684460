"""Axial-ResNet under Detectron2's feature pyramid, for RetinaNet, Faster and Mask R-CNN."""

from __future__ import annotations

import itertools

from axial_d2.backbone.axial_resnet import (
    OUTPUT_CHANNELS,
    AxialResNet,
    build_axial_resnet_backbone,
    scale_channels,
)
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn


def _build_fpn(cfg: CfgNode, input_shape: ShapeSpec, top_block: nn.Module) -> FPN:
    return FPN(
        bottom_up=_pyramid_bottom_up(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _pyramid_bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> AxialResNet:
    node = cfg.MODEL.AXIAL_RESNET
    if node.OUTPUT_STRIDE != 32:
        raise ValueError(
            f"MODEL.AXIAL_RESNET.OUTPUT_STRIDE is {node.OUTPUT_STRIDE}; a feature pyramid needs "
            "each level at twice the stride of the one below, so set it to 32."
        )
    missing = sorted(set(cfg.MODEL.FPN.IN_FEATURES) - set(node.OUT_FEATURES))
    if missing or not cfg.MODEL.FPN.IN_FEATURES:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES {cfg.MODEL.FPN.IN_FEATURES} must be some of the backbone's "
            f"MODEL.AXIAL_RESNET.OUT_FEATURES {node.OUT_FEATURES}."
        )
    bottom_up = build_axial_resnet_backbone(cfg, input_shape)
    strides = [bottom_up.output_shape()[name].stride for name in cfg.MODEL.FPN.IN_FEATURES]
    if any(fine * 2 != coarse for fine, coarse in itertools.pairwise(strides)):
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES {cfg.MODEL.FPN.IN_FEATURES} have strides {strides}; each must "
            "be twice the one before, so name neighbouring stages, such as res2, res3, res4, res5, "
            "here and in MODEL.AXIAL_RESNET.OUT_FEATURES."
        )
    return bottom_up


@BACKBONE_REGISTRY.register()
def build_axial_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """p2 … p6 for Faster and Mask R-CNN, from ``MODEL.AXIAL_RESNET`` and ``MODEL.FPN``."""
    return _build_fpn(cfg, input_shape, LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_axial_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """p3 … p7 for RetinaNet, from ``MODEL.AXIAL_RESNET`` and ``MODEL.FPN``."""
    if "res5" not in cfg.MODEL.AXIAL_RESNET.OUT_FEATURES:
        raise ValueError(
            f"MODEL.AXIAL_RESNET.OUT_FEATURES {cfg.MODEL.AXIAL_RESNET.OUT_FEATURES} lacks res5, "
            "which p6 and p7 of a RetinaNet are made from; add it."
        )
    channels = scale_channels(OUTPUT_CHANNELS[3], cfg.MODEL.AXIAL_RESNET.WIDTH_MULTIPLIER)
    return _build_fpn(cfg, input_shape, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS))
