"""Backbones; importing this registers them with Detectron2."""

from axial_d2.backbone.axial_resnet import AxialResNet, build_axial_resnet_backbone
from axial_d2.backbone.blocks import AxialBlock
from axial_d2.backbone.fpn import (
    build_axial_resnet_fpn_backbone,
    build_retinanet_axial_resnet_fpn_backbone,
)

__all__ = [
    "AxialBlock",
    "AxialResNet",
    "build_axial_resnet_backbone",
    "build_axial_resnet_fpn_backbone",
    "build_retinanet_axial_resnet_fpn_backbone",
]
