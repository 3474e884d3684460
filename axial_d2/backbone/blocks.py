"""Residual blocks of the backbones, for Detectron2's own ``ResNet``."""

from __future__ import annotations

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from axial_d2.layers import (
    ALL_TERMS,
    AttentionTerms,
    AxialAttention,
    GlobalAttention,
    LocalAttention,
    PositionSensitiveLocalAttention,
    build_norm,
)
from axial_d2.layers.folding import FoldingConv2d
from axial_d2.layers.striding import subsample
from detectron2.layers import CNNBlockBase, Conv2d
from torch import Tensor
from torchvision.ops import StochasticDepth

STRIDING_CHOICES = ("subsample", "avg_pool")


class AttentionBlock(CNNBlockBase):
    """The bottleneck with attention instead of its 3×3 convolution.

    1×1 conv, norm, ReLU → :meth:`attend` → ReLU → 1×1 conv, norm, plus the shortcut, ReLU. The
    last norm starts at weight 0. The shortcut is a strided 1×1 conv with norm where the channels
    change, else the input, sliced to every ``stride``-th row and column.

    Shape: [B, in_channels, H, W] → [B, out_channels, ceil(H / stride), ceil(W / stride)].

    Args:
        in_channels, out_channels: of the block.
        stride: 1 or 2.
        bottleneck_channels: of the input and output of the attention.
        norm: of every convolution.
        striding: "subsample" keeps every ``stride``-th row and column (paper, DeepLab2);
            "avg_pool" averages (authors' PyTorch code, SASA), the border's pools over what
            exists.
        drop_path: probability, default 0, that training drops the branch of an image; kept
            branches are scaled by 1 / (1 - drop_path).

    Raises:
        ValueError: an unknown striding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        bottleneck_channels: int,
        norm: str,
        striding: str,
        drop_path: float = 0.0,
    ):
        super().__init__(in_channels, out_channels, stride)
        if striding not in STRIDING_CHOICES:
            raise ValueError(f"STRIDING {striding!r} is unknown; choose one of {STRIDING_CHOICES}.")
        self.striding = striding
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = _projection(in_channels, out_channels, norm, stride=stride)
        self.conv1 = _projection(in_channels, bottleneck_channels, norm)
        self.conv3 = _projection(bottleneck_channels, out_channels, norm, zero_init=True)
        self.drop_path = StochasticDepth(drop_path, "row")

    def attend(self, x: Tensor) -> Tensor:
        """[B, bottleneck, H, W] → [B, bottleneck, ceil(H / stride), ceil(W / stride)]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = F.relu_(self.attend(out))
        out = self.drop_path(self.conv3(out))
        return F.relu_(out.add_(self._identity(x)))

    def reduce(self, x: Tensor) -> Tensor:
        """Strides both axes at once."""
        if self.stride == 1:
            return x
        if self.striding == "subsample":
            return subsample(x, self.stride, self.stride)
        return F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)

    def _identity(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            return self.shortcut(x)
        return subsample(x, self.stride, self.stride)


class AxialBlock(AttentionBlock):
    """Attention on height, then on width, with nothing in between (Axial-DeepLab, Fig. 2).

    Striding by "subsample" keeps every ``stride``-th row straight after the height axis, then
    every ``stride``-th column after the width axis; "avg_pool" averages after both. Further as
    :class:`AttentionBlock`.

    Args:
        bottleneck_channels: values of both attention layers.
        key_channels: queries and keys of both, all heads together; default half the bottleneck.
        num_heads, span, max_span, norm, implementation, terms: of :class:`.AxialAttention`.
        drop_path: of :class:`AttentionBlock`, default 0.

    Raises:
        ValueError: an unknown striding, or what :class:`.AxialAttention` refuses.
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
        terms: AttentionTerms = ALL_TERMS,
        drop_path: float = 0.0,
    ):
        super().__init__(
            in_channels,
            out_channels,
            stride=stride,
            bottleneck_channels=bottleneck_channels,
            norm=norm,
            striding=striding,
            drop_path=drop_path,
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
            "terms": terms,
        }
        self.height_axis = AxialAttention(axis="height", **attention)
        self.width_axis = AxialAttention(axis="width", **attention)

    def attend(self, x: Tensor) -> Tensor:
        if self.striding == "subsample":
            x = subsample(self.height_axis(x), rows=self.stride)
            return subsample(self.width_axis(x), columns=self.stride)
        return self.reduce(self.width_axis(self.height_axis(x)))


class LocalBlock(AttentionBlock):
    """Stand-alone self-attention on a 2-D window, striding, norm (SASA, section 3).

    Args:
        num_heads, span, positions, implementation, terms: of :class:`.LocalAttention`.

    Raises:
        ValueError: an unknown striding, or what :class:`.LocalAttention` refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        bottleneck_channels: int,
        num_heads: int = 8,
        span: int = 7,
        positions: str = "relative",
        norm: str = "BN",
        striding: str = "avg_pool",
        implementation: str = "auto",
        terms: AttentionTerms = ALL_TERMS,
    ):
        super().__init__(
            in_channels,
            out_channels,
            stride=stride,
            bottleneck_channels=bottleneck_channels,
            norm=norm,
            striding=striding,
        )
        self.attention = LocalAttention(
            bottleneck_channels,
            bottleneck_channels,
            num_heads=num_heads,
            span=span,
            positions=positions,
            implementation=implementation,
            terms=terms,
        )
        self.attention_norm = build_norm(norm, bottleneck_channels)

    def attend(self, x: Tensor) -> Tensor:
        return self.attention_norm(self.reduce(self.attention(x)))


class PositionSensitiveLocalBlock(AttentionBlock):
    """Position-sensitive attention on a 2-D window (Axial-DeepLab, eq. 3), then striding.

    Queries, keys and values have ``bottleneck_channels`` channels each.

    Args:
        num_heads, span, norm, implementation, terms: of
            :class:`.PositionSensitiveLocalAttention`.

    Raises:
        ValueError: an unknown striding, or what the attention refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        bottleneck_channels: int,
        num_heads: int = 8,
        span: int = 7,
        norm: str = "BN",
        striding: str = "avg_pool",
        implementation: str = "auto",
        terms: AttentionTerms = ALL_TERMS,
    ):
        super().__init__(
            in_channels,
            out_channels,
            stride=stride,
            bottleneck_channels=bottleneck_channels,
            norm=norm,
            striding=striding,
        )
        self.attention = PositionSensitiveLocalAttention(
            bottleneck_channels,
            bottleneck_channels,
            bottleneck_channels,
            num_heads=num_heads,
            span=span,
            norm=norm,
            implementation=implementation,
            terms=terms,
        )

    def attend(self, x: Tensor) -> Tensor:
        return self.reduce(self.attention(x))


class GlobalBlock(AttentionBlock):
    """Attention over the whole image by content, striding, norm (Axial-DeepLab, eq. 1).

    Args:
        num_heads, norm: of :class:`.GlobalAttention`.

    Raises:
        ValueError: an unknown striding, or what :class:`.GlobalAttention` refuses.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        bottleneck_channels: int,
        num_heads: int = 8,
        norm: str = "BN",
        striding: str = "avg_pool",
    ):
        super().__init__(
            in_channels,
            out_channels,
            stride=stride,
            bottleneck_channels=bottleneck_channels,
            norm=norm,
            striding=striding,
        )
        self.attention = GlobalAttention(
            bottleneck_channels, bottleneck_channels, num_heads=num_heads, norm=norm
        )
        self.attention_norm = build_norm(norm, bottleneck_channels)

    def attend(self, x: Tensor) -> Tensor:
        return self.attention_norm(self.reduce(self.attention(x)))


def _projection(
    in_channels: int, out_channels: int, norm: str, stride: int = 1, zero_init: bool = False
) -> Conv2d:
    conv = FoldingConv2d(
        in_channels,
        out_channels,
        kernel_size=1,
        stride=stride,
        bias=False,
        norm=build_norm(norm, out_channels, zero_init=zero_init),
    )
    weight_init.c2_msra_fill(conv)
    return conv
