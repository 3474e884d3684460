"""The backbone of MaX-DeepLab-S (arXiv 2012.00759), without the memory path and decoders."""

from __future__ import annotations

from typing import Any

from axial_d2.backbone.conv_axial_resnet import ConvAxialResNet
from axial_d2.backbone.conv_blocks import BottleneckBlock
from axial_d2.backbone.stages import BOTTLENECK_CHANNELS, STAGE_TYPES, StageOptions
from axial_d2.backbone.stem import InceptionStem
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY


class MaXDeepLabSBackbone(ConvAxialResNet):
    """DeepLab2's ``max_deeplab_s_backbone``: ResNet-50 with axial blocks from stride 16 on.

    A stem of three 3×3 convolutions without a pool, convolutional bottlenecks of 64, 128 and 256
    channels, axial bottlenecks of 512 and 1024 channels with half as many keys. Drop path from
    stride 16 on. Arguments and errors are those of :class:`.ConvAxialResNet`.
    """

    config_node = "MODEL.MAX_DEEPLAB_S"
    blocks_per_stage = (3, 4, 6, 3)
    drop_path_stride = 16

    def build_stem(self, in_channels: int, out_channels: int, norm: str) -> CNNBlockBase:
        return InceptionStem(in_channels, out_channels, norm)

    def conv_block(self, options: StageOptions) -> dict[str, Any]:
        return {
            "block_class": BottleneckBlock,
            "bottleneck_channels": options.channels(BOTTLENECK_CHANNELS),
            "norm": options.norm,
        }

    def axial_block(self, options: StageOptions) -> dict[str, Any]:
        return STAGE_TYPES["axial"](options)


@BACKBONE_REGISTRY.register()
def build_max_deeplab_s_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MaXDeepLabSBackbone:
    """A :class:`MaXDeepLabSBackbone` from ``cfg.MODEL.MAX_DEEPLAB_S``."""
    return MaXDeepLabSBackbone(cfg, input_shape)
