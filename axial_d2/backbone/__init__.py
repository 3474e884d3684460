"""Backbones; importing this registers them with Detectron2."""

from axial_d2.backbone.attention_fpn import (
    AttentionFPN,
    AttentionP6P7,
    build_axial_resnet_attention_fpn_backbone,
    build_local_attention_resnet_attention_fpn_backbone,
    build_resnet_attention_fpn_backbone,
    build_retinanet_axial_resnet_attention_fpn_backbone,
    build_retinanet_local_attention_resnet_attention_fpn_backbone,
    build_retinanet_resnet_attention_fpn_backbone,
)
from axial_d2.backbone.attention_resnet import AttentionResNet
from axial_d2.backbone.axial_resnet import AxialResNet, build_axial_resnet_backbone
from axial_d2.backbone.axial_swidernet import AxialSWideRNet, build_axial_swidernet_backbone
from axial_d2.backbone.blocks import (
    AxialBlock,
    GlobalBlock,
    LocalBlock,
    PositionSensitiveLocalBlock,
)
from axial_d2.backbone.fpn import (
    build_axial_resnet_fpn_backbone,
    build_local_attention_resnet_fpn_backbone,
    build_retinanet_axial_resnet_fpn_backbone,
    build_retinanet_local_attention_resnet_fpn_backbone,
)
from axial_d2.backbone.local_attention_resnet import (
    LocalAttentionResNet,
    build_local_attention_resnet_backbone,
)
from axial_d2.backbone.max_deeplab import MaXDeepLabSBackbone, build_max_deeplab_s_backbone
from axial_d2.backbone.vgg import VGG16LargeFOV, build_vgg16_largefov_backbone

__all__ = [
    "AttentionFPN",
    "AttentionP6P7",
    "AttentionResNet",
    "AxialBlock",
    "AxialResNet",
    "AxialSWideRNet",
    "GlobalBlock",
    "LocalAttentionResNet",
    "LocalBlock",
    "MaXDeepLabSBackbone",
    "PositionSensitiveLocalBlock",
    "VGG16LargeFOV",
    "build_axial_resnet_attention_fpn_backbone",
    "build_axial_resnet_backbone",
    "build_axial_resnet_fpn_backbone",
    "build_axial_swidernet_backbone",
    "build_local_attention_resnet_attention_fpn_backbone",
    "build_local_attention_resnet_backbone",
    "build_local_attention_resnet_fpn_backbone",
    "build_max_deeplab_s_backbone",
    "build_resnet_attention_fpn_backbone",
    "build_retinanet_axial_resnet_attention_fpn_backbone",
    "build_retinanet_axial_resnet_fpn_backbone",
    "build_retinanet_local_attention_resnet_attention_fpn_backbone",
    "build_retinanet_local_attention_resnet_fpn_backbone",
    "build_retinanet_resnet_attention_fpn_backbone",
    "build_vgg16_largefov_backbone",
]
