"""Convolutional residual blocks with drop path, on Detectron2's own.

Like DeepLab2's they start as their shortcut: the last norm of the branch has weight 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from axial_d2.layers import build_norm
from axial_d2.layers.striding import subsample
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone import resnet
from torch import Tensor, nn
from torchvision.ops import StochasticDepth


class ConvBlock(CNNBlockBase):
    """:meth:`branch`, dropped at random in training, plus the shortcut, ReLU.

    The shortcut is a strided 1×1 convolution with norm where the channels change, else the
    input, sliced to every ``stride``-th row and column.

    Shape: [B, in_channels, H, W] → [B, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    shortcut: nn.Module | None
    drop_path: StochasticDepth

    def branch(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] → what is added to the shortcut."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        branch = self.drop_path(self.branch(x))
        return F.relu_(branch + self._identity(x))

    def _identity(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            return self.shortcut(x)
        return subsample(x, self.stride, self.stride)


class BasicBlock(ConvBlock, resnet.BasicBlock):
    """Two 3×3 convolutions, the first of which strides (Wide-ResNet).

    Args:
        in_channels, out_channels: of the block; all convolutions have ``out_channels``.
        stride: 1 (default) or 2.
        second_dilation: of the second convolution, default 1: what the output stride took from
            this block's stride, so that it sees the same pixels as it would with the stride.
        norm: of every convolution, default "BN".
        drop_path: probability, default 0, that training drops the branch of an image; kept
            branches are scaled by 1 / (1 - drop_path).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        second_dilation: int = 1,
        norm: str = "BN",
        drop_path: float = 0.0,
    ):
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        self.conv2.padding = self.conv2.dilation = (second_dilation, second_dilation)
        self.conv2.norm = build_norm(norm, out_channels, zero_init=True)
        self.drop_path = StochasticDepth(drop_path, "row")

    def branch(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu_(self.conv1(x)))


class BottleneckBlock(ConvBlock, resnet.BottleneckBlock):
    """1×1, 3×3 and 1×1 convolutions, the 3×3 one strides (ResNet).

    Args:
        in_channels, out_channels: of the block.
        stride: 1 (default) or 2.
        bottleneck_channels: of the 3×3 convolution.
        dilation: of the 3×3 convolution, default 1.
        norm, drop_path: as in :class:`BasicBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        bottleneck_channels: int,
        dilation: int = 1,
        norm: str = "BN",
        drop_path: float = 0.0,
    ):
        super().__init__(
            in_channels,
            out_channels,
            stride=stride,
            bottleneck_channels=bottleneck_channels,
            dilation=dilation,
            norm=norm,
        )
        self.conv3.norm = build_norm(norm, out_channels, zero_init=True)
        self.drop_path = StochasticDepth(drop_path, "row")

    def branch(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu_(self.conv2(F.relu_(self.conv1(x)))))
