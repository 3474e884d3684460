"""Self-attention on a 2-D window: stand-alone self-attention, and its position-sensitive kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from axial_d2.layers.absolute_position import check_sinusoid_channels, sinusoid_positions
from axial_d2.layers.position_sensitive import PositionSensitiveAttention, check_heads
from axial_d2.layers.relative_window import RelativeWindow
from axial_d2.layers.terms import ALL_TERMS, AttentionTerms
from axial_d2.ops import local_attention, local_logit_moments
from axial_d2.ops.local_attention import (
    IMPLEMENTATION_CHOICES,
    check_implementation,
    check_window,
)
from detectron2.layers import Conv2d
from torch import Tensor, nn

POSITION_CHOICES = ("relative", "absolute", "none")


def check_local_attention(node: Any, channels: int, where: str, channels_key: str) -> None:
    """Raises ValueError for values of a config that :class:`LocalAttention` would refuse.

    Args:
        node: holds ``NUM_HEADS``, ``SPAN`` and ``IMPL``.
        channels: of query, key, value and output.
        where: the config key of ``node``.
        channels_key: the config key that sets ``channels``.
    """
    multiple = 2 * node.NUM_HEADS  # half of a head's channels are row, half column
    if node.NUM_HEADS < 1 or channels % multiple:
        raise ValueError(
            f"{where}.NUM_HEADS is {node.NUM_HEADS}; it must be at least 1, and twice that must "
            f"divide the {channels} channels of {channels_key}: positions of a head are half row "
            "and half column."
        )
    check_window(node.SPAN, f"{where}.SPAN")
    if node.IMPL not in IMPLEMENTATION_CHOICES:
        raise ValueError(
            f"{where}.IMPL is {node.IMPL!r}; it must be one of {IMPLEMENTATION_CHOICES}."
        )


class LocalAttention(nn.Module):
    """Stand-alone self-attention (SASA, arXiv 1906.05909, eq. 2 and 3).

    Every position attends to the ``span`` × ``span`` window around it, truncated at the border,
    by q·k and, with relative positions, q·r. No norm and no bias inside.

    Shape: [B, in_channels, H, W] → [B, out_channels, H, W], any H and W.

    Args:
        in_channels: channels of the input.
        out_channels: of query, key, value and output, all heads together.
        num_heads: divides ``out_channels``; default 8.
        span: odd length of the window; default 7.
        positions: "relative" (default; half row, half column), "absolute" (sinusoids are added
            to the input) or "none".
        implementation: of :func:`axial_d2.ops.local_attention`.
        terms: which of q·k and q·r exist; the others never do here.

    Raises:
        ValueError: heads that do not divide the channels, an even or non-positive span, an
            unknown kind of positions, channels that the positions cannot share evenly, no logit
            term or no value left.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_heads: int = 8,
        span: int = 7,
        positions: str = "relative",
        implementation: str = "auto",
        terms: AttentionTerms = ALL_TERMS,
    ):
        super().__init__()
        check_heads(num_heads, out_channels, out_channels)
        check_window(span)
        check_implementation(implementation)
        if positions not in POSITION_CHOICES:
            raise ValueError(f"positions {positions!r} is unknown; choose from {POSITION_CHOICES}.")
        if positions == "absolute":
            check_sinusoid_channels(in_channels)
        relative = positions == "relative" and terms.query_position
        self.terms = replace(
            terms, query_position=relative, key_position=False, value_position=False
        )
        self.num_heads = num_heads
        self.span = span
        self.positions = positions
        self.implementation = implementation
        projected = (2 + self.terms.key) * out_channels
        self.qkv = Conv2d(in_channels, projected, kernel_size=1, bias=False)
        nn.init.normal_(self.qkv.weight, std=in_channels**-0.5)
        self.query_window = None
        if relative:
            # As large as a key's channels, so that the place says as much as the content.
            self.query_window = RelativeWindow(span, out_channels // num_heads, std=1.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.positions == "absolute":
            x = x + sinusoid_positions(x.shape[2], x.shape[3], x.shape[1], x)
        parts = self.qkv(x).chunk(2 + self.terms.key, dim=1)
        heads = [split_heads(part, self.num_heads) for part in parts]
        content, _ = local_attention(
            heads[0],
            heads[1] if self.terms.key else heads[0],
            heads[-1],
            query_table=self.query_window() if self.query_window is not None else None,
            span=self.span,
            implementation=self.implementation,
            query_key=self.terms.query_key,
        )
        assert content is not None
        return join_heads(content)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, span={self.span}, positions={self.positions}"


class PositionSensitiveLocalAttention(PositionSensitiveAttention):
    """Position-sensitive attention on a 2-D window (Axial-DeepLab, eq. 3).

    As :class:`.AxialAttention`, with norms on the projection, on every logit term of every head
    and on both retrieved terms, but over the ``span`` × ``span`` window around each position,
    truncated at the border. Positions are half row and half column.

    Shape: [B, in_channels, H, W] → [B, value_channels, H, W], any H and W.

    Args:
        in_channels: channels of the input.
        key_channels: channels of query and of key, all heads together.
        value_channels: channels of value and of the output, all heads together.
        num_heads: divides both; default 8.
        span: odd length of the window; default 7.
        norm: "BN" (default), "SyncBN", "naiveSyncBN" or "FrozenBN".
        implementation: of :func:`axial_d2.ops.local_attention`.
        terms: those of the five that exist; default all.

    Raises:
        ValueError: heads that do not divide the channels, an odd number of channels a head, an
            even or non-positive span, an unknown norm.
    """

    def __init__(
        self,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        *,
        num_heads: int = 8,
        span: int = 7,
        norm: str = "BN",
        implementation: str = "auto",
        terms: AttentionTerms = ALL_TERMS,
    ):
        check_window(span)
        check_implementation(implementation)
        super().__init__(
            in_channels, key_channels, value_channels, num_heads=num_heads, norm=norm, terms=terms
        )
        self.span = span
        self.implementation = implementation
        sizes = [channels // num_heads for channels in (key_channels, key_channels, value_channels)]
        exist = (terms.query_position, terms.key_position, terms.value_position)
        self.query_window, self.key_window, self.value_window = (
            RelativeWindow(span, channels) if there else None
            for channels, there in zip(sizes, exist, strict=True)
        )
        self.reset_projection()

    def forward(self, x: Tensor) -> Tensor:
        parts = self.project(x).split([size for size in self.projected_channels if size], dim=1)
        query, key, value = self.stand_in([split_heads(part, self.num_heads) for part in parts])
        windows = (self.query_window, self.key_window, self.value_window)
        query_table, key_table, value_table = (
            None if window is None else window() for window in windows
        )
        moments = None
        if self.needs_moments:
            moments = local_logit_moments(
                query,
                key,
                query_table,
                key_table,
                self.span,
                self.implementation,
                self.terms.query_key,
            )
        retrieved = local_attention(
            query,
            key,
            value,
            query_table,
            key_table,
            value_table,
            self.logit_scale(moments),
            self.span,
            self.implementation,
            self.terms.query_key,
        )
        return self.combine(*retrieved, join_heads)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, span={self.span}"


def split_heads(image: Tensor, num_heads: int) -> Tensor:
    """[B, N·C, H, W], heads outermost → [B, N, H, W, C]."""
    return image.unflatten(1, (num_heads, -1)).permute(0, 1, 3, 4, 2)


def join_heads(heads: Tensor) -> Tensor:
    """[B, N, H, W, C] → [B, N·C, H, W]."""
    return heads.permute(0, 1, 4, 2, 3).flatten(1, 2)
