"""Stems: what comes before res2.

| name | layers | stride |
|---|---|---|
| `conv7` | 7×7 stride 2, 3×3 max-pool (authors' classification code) | 4 |
| `deeplab` | three 3×3 convs, the first stride 2, 3×3 max-pool (the paper's cost tables) | 4 |
| `inception` | three 3×3 convs, the first stride 2, no pool: res2 strides (DeepLab2) | 2 |
| `axial` | three axial blocks, the first stride 2, 3×3 max-pool (Full Axial-ResNet) | 4 |
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone.resnet import BasicStem
from detectron2.projects.deeplab.resnet import DeepLabStem
from torch import Tensor, nn

# Output channels at width 1.0.
STEM_CHANNELS = {"conv7": 64, "deeplab": 128, "inception": 128, "axial": 128}


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
        make_block: ``make_block(in_channels, out_channels, stride)`` returns one axial block.
    """

    def __init__(
        self, in_channels: int, out_channels: int, make_block: Callable[[int, int, int], nn.Module]
    ):
        super().__init__(in_channels, out_channels, 4)
        half = out_channels // 2
        self.block1 = make_block(in_channels, half, 2)
        self.block2 = make_block(half, half, 1)
        self.block3 = make_block(half, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(x)))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def build_stem(
    name: str,
    in_channels: int,
    out_channels: int,
    norm: str,
    make_axial_block: Callable[[int, int, int], nn.Module],
) -> CNNBlockBase:
    """The stem called ``name``.

    Raises:
        ValueError: an unknown name.
    """
    if name == "axial":
        return AxialStem(in_channels, out_channels, make_axial_block)
    convolutional = {"conv7": BasicStem, "deeplab": DeepLabStem, "inception": InceptionStem}
    if name not in convolutional:
        raise ValueError(
            f"MODEL.AXIAL_RESNET.STEM {name!r} is unknown; choose one of {tuple(STEM_CHANNELS)}."
        )
    return convolutional[name](in_channels, out_channels, norm)
