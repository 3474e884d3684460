"""Position and channel attention with a residual that starts as all there is (DANet)."""

from __future__ import annotations

import torch
from axial_d2.ops.dual_attention import (
    CHANNEL_SOFTMAX_CHOICES,
    channel_attention,
    channel_weights,
    position_attention,
    position_weights,
)
from torch import Tensor, nn


class PositionAttention(nn.Module):
    """Every position gathers the features of all positions that resemble it (DANet, eq. 2).

    E = α · Σ_i s_ji D_i + A, with s = softmax(B · C) and B, C, D 1×1 convolutions of A. α is
    learned and starts at 0, so that the layer starts as the identity. The (H·W)² weights are
    never in memory at once.

    Shape: [B, channels, H, W] → the same, any H and W.

    Args:
        channels: of input and output.
        key_channels: of queries and keys; default an eighth of ``channels``, at least 1.
        implementation: of :func:`axial_d2.ops.dual_attention.position_attention`.
    """

    def __init__(
        self, channels: int, key_channels: int | None = None, implementation: str = "auto"
    ):
        super().__init__()
        key_channels = key_channels or max(1, channels // 8)
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.alpha = nn.Parameter(torch.zeros(()))
        self.implementation = implementation

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (_tokens(layer(x)) for layer in (self.query, self.key, self.value))
        attended = position_attention(query, key, value, self.implementation)
        return torch.addcmul(x, self.alpha, attended.mT.unflatten(2, x.shape[2:]))

    def weights(self, x: Tensor, positions: Tensor) -> Tensor:
        """Attention maps of some positions, for pictures.

        Args:
            x: [B, channels, H, W].
            positions: [P, 2] as (row, column), integers.

        Returns:
            [B, P, H, W]; each map sums to one.
        """
        height, width = x.shape[2:]
        indices = positions[:, 0] * width + positions[:, 1]
        query = _tokens(self.query(x))[:, indices]
        return position_weights(query, _tokens(self.key(x))).unflatten(2, (height, width))


class ChannelAttention(nn.Module):
    """Every channel gathers channels by their products with it (DANet, eq. 4).

    E = β · Σ_i x_ji A_i + A, with x from the products of A's channels, without convolutions. β is
    learned and starts at 0, so that the layer starts as the identity.

    Shape: [B, channels, H, W] → the same, any H and W.

    Args:
        softmax: "energy" (default; the paper's: similar channels weigh most) or
            "reversed_energy" (the released code's: dissimilar ones do).

    Raises:
        ValueError: another ``softmax``.
    """

    def __init__(self, softmax: str = "energy"):
        super().__init__()
        if softmax not in CHANNEL_SOFTMAX_CHOICES:
            raise ValueError(
                f"MODEL.DUAL_ATTENTION.CHANNEL_SOFTMAX is {softmax!r}; it must be one of "
                f"{CHANNEL_SOFTMAX_CHOICES}."
            )
        self.softmax = softmax
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        attended = channel_attention(x.flatten(2), self.softmax)
        return torch.addcmul(x, self.beta, attended.unflatten(2, x.shape[2:]))

    def weights(self, x: Tensor) -> Tensor:
        """x, [B, channels, channels]; rows sum to one."""
        return channel_weights(x.flatten(2), self.softmax)


def _tokens(image: Tensor) -> Tensor:
    """[B, C, H, W] → [B, H·W, C]."""
    return image.flatten(2).mT
