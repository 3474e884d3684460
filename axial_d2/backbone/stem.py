"""Stems: what comes before res2.

| name | layers | stride |
|---|---|---|
| `conv7` | 7×7 stride 2, 3×3 max-pool (ResNet; authors' classification code; SASA) | 4 |
| `conv7_unpooled` | 7×7 stride 2, no pool: res2 strides (DeepLab2's axial_resnet) | 2 |
| `deeplab` | three 3×3 convs, the first stride 2, 3×3 max-pool (the paper's cost tables) | 4 |
| `inception` | three 3×3 convs, the first stride 2, no pool: res2 strides (DeepLab2) | 2 |
| `axial` | three axial blocks, the first stride 2, 3×3 max-pool (Full Axial-ResNet) | 4 |
| `attention` | attention inside 4×4 blocks, 4×4 max-pool (full SASA) | 4 |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from axial_d2.backbone.attention_stem import AttentionStem
from axial_d2.backbone.blocks import AxialBlock
from axial_d2.backbone.stages import StageOptions, axial_arguments, check_heads_divide
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone.resnet import BasicStem
from detectron2.projects.deeplab.resnet import DeepLabStem
from torch import Tensor

FULL_AXIAL_SPAN = 15


class UnpooledStem(BasicStem):
    """One 7×7 convolution of stride 2: Detectron2's ResNet stem without the max-pool.

    [B, in_channels, H, W] → [B, out_channels, ceil(H / 2), ceil(W / 2)].
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: str = "BN"):
        super().__init__(in_channels, out_channels, norm)
        self.stride = 2

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.conv1(x))


class InceptionStem(DeepLabStem):
    """Three 3×3 convolutions (half, half and all of ``out_channels``), the first with stride 2.

    Detectron2's DeepLab stem without the max-pool: [B, in_channels, H, W] →
    [B, out_channels, ceil(H / 2), ceil(W / 2)].
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 128, norm: str = "BN"):
        super().__init__(in_channels, out_channels, norm)
        self.stride = 2

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu_(conv(x))
        return x


class AxialStem(CNNBlockBase):
    """Three axial blocks (half, half and all of ``out_channels``), the first with stride 2.

    [B, in_channels, H, W] → [B, out_channels, ceil(H / 4), ceil(W / 4)] after a 3×3 max-pool.

    Args:
        options: of the axial blocks; a span of 0 becomes 15, the paper's choice for a stem.
    """

    def __init__(self, in_channels: int, out_channels: int, options: StageOptions):
        super().__init__(in_channels, out_channels, 4)
        half = out_channels // 2
        place = f"the axial stem of {out_channels} channels"
        check_heads_divide(options, half // 2, place)
        arguments = axial_arguments(replace(options, span=options.span or FULL_AXIAL_SPAN))
        self.block1, self.block2, self.block3 = (
            AxialBlock(
                channels_in, channels, stride=stride, bottleneck_channels=channels, **arguments
            )
            for channels_in, channels, stride in (
                (in_channels, half, 2),
                (half, half, 1),
                (half, out_channels, 1),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(x)))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


@dataclass(frozen=True)
class Stem:
    """A kind of stem.

    Args:
        channels: of its output, at width 1.0.
        build: from input channels, output channels and options to a block.
    """

    channels: int
    build: Callable[[int, int, StageOptions], CNNBlockBase]


def _convolutional(stem_class: type[BasicStem] | type[DeepLabStem], channels: int) -> Stem:
    def build(in_channels: int, out_channels: int, options: StageOptions) -> CNNBlockBase:
        return stem_class(in_channels, out_channels, options.norm)

    return Stem(channels, build)


def _build_attention_stem(
    in_channels: int, out_channels: int, options: StageOptions
) -> CNNBlockBase:
    # The axial and local ops' choices say no more than this of it.
    implementation = "reference" if options.implementation == "reference" else "auto"
    return AttentionStem(
        in_channels, out_channels, norm=options.norm, implementation=implementation
    )


# A new stem is an entry here.
STEMS = {
    "conv7": _convolutional(BasicStem, 64),
    "conv7_unpooled": _convolutional(UnpooledStem, 64),
    "deeplab": _convolutional(DeepLabStem, 128),
    "inception": _convolutional(InceptionStem, 128),
    "axial": Stem(128, AxialStem),
    "attention": Stem(64, _build_attention_stem),
}
