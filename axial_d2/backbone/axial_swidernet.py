"""Axial-SWideRNet: Wide-ResNet-41 scaled in depth (arXiv 2011.11675), with axial blocks."""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from axial_d2.backbone.blocks import AxialBlock
from axial_d2.backbone.conv_axial_resnet import ConvAxialResNet
from axial_d2.backbone.conv_blocks import BasicBlock
from axial_d2.backbone.stages import (
    OUTPUT_CHANNELS,
    STAGE_NAMES,
    StageOptions,
    axial_arguments,
    check_heads_divide,
)
from axial_d2.layers import build_norm
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor, nn


class WideStem(CNNBlockBase):
    """A 3×3 convolution of stride 2 with norm and ReLU, then "stage 1": three basic blocks.

    [B, in_channels, H, W] → [B, out_channels, ceil(H / 2), ceil(W / 2)].

    Args:
        in_channels: of the image.
        out_channels: of the blocks; the convolution has half of them.
        norm: of every convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str):
        super().__init__(in_channels, out_channels, 2)
        half = out_channels // 2
        self.conv1 = Conv2d(
            in_channels,
            half,
            kernel_size=3,
            stride=2,
            padding=1,
            bias=False,
            norm=build_norm(norm, half),
        )
        weight_init.c2_msra_fill(self.conv1)
        channels = (half, out_channels, out_channels)
        self.res1 = nn.Sequential(*(BasicBlock(each, out_channels, norm=norm) for each in channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.res1(F.relu_(self.conv1(x)))


class AxialSWideRNet(ConvAxialResNet):
    """DeepLab2's ``axial_swidernet``, and with layer multiplier 1 its ``max_deeplab_l_backbone``.

    A :class:`WideStem`, basic blocks of 256, 512 and 1024 channels, axial blocks whose bottleneck
    is as wide as their output, 1024 and 2048 channels, with half as many keys. Drop path from
    stride 4 on. DeepLab2's SWideRNet-(1, 1, x) has ``layer_multiplier`` x: 1, 3 or 4.5. The
    stacked decoder of max_deeplab_l_backbone, which its panoptic models do not use, is left out.
    Arguments and errors are those of :class:`.ConvAxialResNet`; the first stage to freeze is the
    whole stem.
    """

    config_node = "MODEL.AXIAL_SWIDERNET"
    blocks_per_stage = (3, 6, 3, 3)
    drop_path_stride = 4

    def build_stem(self, in_channels: int, out_channels: int, norm: str) -> CNNBlockBase:
        return WideStem(in_channels, out_channels, norm)

    def conv_block(self, options: StageOptions) -> dict[str, Any]:
        return {
            "block_class": BasicBlock,
            "second_dilation": options.dilation,
            "norm": options.norm,
        }

    def axial_block(self, options: StageOptions) -> dict[str, Any]:
        channels = options.channels(OUTPUT_CHANNELS)
        place = f"{STAGE_NAMES[options.index]} at {options.config_node}.WIDTH_MULTIPLIER"
        check_heads_divide(options, channels // 2, f"{place} {options.width}")
        return {
            "block_class": AxialBlock,
            "bottleneck_channels": channels,
            **axial_arguments(options),
        }


@BACKBONE_REGISTRY.register()
def build_axial_swidernet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> AxialSWideRNet:
    """An :class:`AxialSWideRNet` from ``cfg.MODEL.AXIAL_SWIDERNET``."""
    return AxialSWideRNet(cfg, input_shape)
