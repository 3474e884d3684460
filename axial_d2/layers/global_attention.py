"""Attention over the whole image (non-local; Axial-DeepLab, eq. 1)."""

from __future__ import annotations

import torch.nn.functional as F
from axial_d2.layers.folding import FoldingConv2d
from axial_d2.layers.local_attention import join_heads, split_heads
from axial_d2.layers.norm import build_norm
from axial_d2.layers.position_sensitive import check_heads
from torch import Tensor, nn


class GlobalAttention(nn.Module):
    """Every position attends to all positions of the image, by content alone.

    Queries, keys and values have as many channels as the output, so that PyTorch's fused
    attention applies, which never writes the (H·W)² map. No division by the square root of the
    channels; a batch norm follows the projection.

    Shape: [B, in_channels, H, W] → [B, out_channels, H, W], any H and W.

    Args:
        in_channels: channels of the input.
        out_channels: of query, key, value and output, all heads together.
        num_heads: divides ``out_channels``; default 8.
        norm: "BN" (default), "SyncBN", "naiveSyncBN" or "FrozenBN".

    Raises:
        ValueError: heads that do not divide the channels, an unknown norm.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, num_heads: int = 8, norm: str = "BN"
    ):
        super().__init__()
        check_heads(num_heads, out_channels, out_channels)
        self.num_heads = num_heads
        self.qkv = FoldingConv2d(
            in_channels,
            3 * out_channels,
            kernel_size=1,
            bias=False,
            norm=build_norm(norm, 3 * out_channels),
        )
        nn.init.normal_(self.qkv.weight, std=in_channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        # Channels innermost, without which PyTorch falls back to whole maps.
        query, key, value = (
            split_heads(part, self.num_heads).flatten(2, 3).contiguous()
            for part in self.qkv(x).chunk(3, dim=1)
        )
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return join_heads(attended.unflatten(2, (height, width)))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"
