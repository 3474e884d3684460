"""Residual blocks of the backbones, for Detectron2's own ``ResNet``."""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from axial_d2.layers import AxialAttention, build_norm
from detectron2.layers import CNNBlockBase, Conv2d
from torch import Tensor

STRIDING_CHOICES = ("subsample", "avg_pool")


class AxialBlock(CNNBlockBase):
    """The bottleneck whose 3×3 convolution is attention on height, then on width (Fig. 2).

    1×1 conv, norm, ReLU → height axis → width axis → ReLU → 1×1 conv, norm, plus the shortcut,
    ReLU. The last norm starts at weight 0. The shortcut is a strided 1×1 conv with norm where
    the channels change, else the input, sliced to every ``stride``-th row and column.

    Shape: [B, in_channels, H, W] → [B, out_channels, ceil(H / stride), ceil(W / stride)].

    Args:
        in_channels, out_channels: of the block.
        stride: 1 or 2.
        bottleneck_channels: values of both attention layers.
        key_channels: queries and keys of both, all heads together; default half the bottleneck.
        num_heads, span, max_span, norm, implementation: of :class:`AxialAttention`.
        striding: "subsample" keeps every ``stride``-th row after the height axis and every
            ``stride``-th column after the width axis (paper, DeepLab2); "avg_pool" averages
            after both axes (authors' PyTorch code), the border's pools over what exists.

    Raises:
        ValueError: an unknown striding, or what :class:`AxialAttention` refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        bottleneck_channels: int,
        key_channels: int | None = None,
        num_heads: int = 8,
        span: int = 0,
        max_span: int = 255,
        norm: str = "BN",
        striding: str = "subsample",
        implementation: str = "auto",
    ):
        super().__init__(in_channels, out_channels, stride)
        if striding not in STRIDING_CHOICES:
            raise ValueError(
                f"MODEL.AXIAL_RESNET.STRIDING {striding!r} is unknown; choose one of "
                f"{STRIDING_CHOICES}."
            )
        self.striding = striding
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = Conv2d(
                in_channels,
                out_channels,
                kernel_size=1,
                stride=stride,
                bias=False,
                norm=build_norm(norm, out_channels),
            )
        self.conv1 = Conv2d(
            in_channels,
            bottleneck_channels,
            kernel_size=1,
            bias=False,
            norm=build_norm(norm, bottleneck_channels),
        )
        attention: dict[str, Any] = {
            "in_channels": bottleneck_channels,
            "key_channels": bottleneck_channels // 2 if key_channels is None else key_channels,
            "value_channels": bottleneck_channels,
            "num_heads": num_heads,
            "span": span,
            "max_span": max_span,
            "norm": norm,
            "implementation": implementation,
        }
        self.height_axis = AxialAttention(axis="height", **attention)
        self.width_axis = AxialAttention(axis="width", **attention)
        self.conv3 = Conv2d(
            bottleneck_channels,
            out_channels,
            kernel_size=1,
            bias=False,
            norm=build_norm(norm, out_channels, zero_init=True),
        )
        for conv in (self.conv1, self.conv3, self.shortcut):
            if conv is not None:
                weight_init.c2_msra_fill(conv)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = F.relu_(self._attend(out))
        out = self.conv3(out)
        return F.relu_(out + self._identity(x))

    def _attend(self, x: Tensor) -> Tensor:
        if self.striding == "subsample":
            x = self.height_axis(x)[:, :, :: self.stride]
            return self.width_axis(x)[:, :, :, :: self.stride]
        x = self.width_axis(self.height_axis(x))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)
        return x

    def _identity(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            return self.shortcut(x)
        return x[:, :, :: self.stride, :: self.stride]
