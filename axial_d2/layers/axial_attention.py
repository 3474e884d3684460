"""Position-sensitive attention along one image axis (Axial-DeepLab, section 3)."""

from __future__ import annotations

import torch
from axial_d2.layers.position_sensitive import PositionSensitiveAttention
from axial_d2.layers.terms import ALL_TERMS, AttentionTerms
from axial_d2.ops import axial_attention, logit_moments
from axial_d2.ops.axial_attention import check_implementation, check_span
from torch import Tensor, nn

AXES = ("height", "width")


class AxialAttention(PositionSensitiveAttention):
    """Attention over the columns (``axis="height"``) or the rows (``axis="width"``) of an image.

    Every position attends to the positions of its own column or row, or to a window of ``span``
    of them, with content and learned relative positions in query, key and value (eq. 4).

    Shape: [B, in_channels, H, W] → [B, value_channels, H, W], any H and W.

    Args:
        in_channels: channels of the input.
        key_channels: channels of query and of key, all heads together.
        value_channels: channels of value and of the output, all heads together.
        axis: "height" or "width".
        num_heads: divides ``key_channels`` and ``value_channels``; default 8 (paper).
        span: odd window, truncated at the border, or 0 (default) for the whole axis.
        max_span: positions a table covers to either side, itself included: 2·max_span - 1 rows,
            row max_span - 1 for offset 0, the offset being key - query. Offsets beyond it share
            the last row, so any length works. Default 255.
        norm: "BN" (default), "SyncBN", "naiveSyncBN" or "FrozenBN".
        implementation: of :func:`axial_d2.ops.axial_attention`.
        terms: those of the five that exist; default all.

    Raises:
        ValueError: heads that do not divide the channels, an even or negative span, an unknown
            axis or norm.
    """

    def __init__(
        self,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        axis: str,
        *,
        num_heads: int = 8,
        span: int = 0,
        max_span: int = 255,
        norm: str = "BN",
        implementation: str = "auto",
        terms: AttentionTerms = ALL_TERMS,
    ):
        if axis not in AXES:
            raise ValueError(f"axis {axis!r} is unknown; choose one of {AXES}.")
        if max_span < 1:
            raise ValueError(f"max_span {max_span} is too small; it must be at least 1.")
        check_span(span)
        check_implementation(implementation)
        super().__init__(
            in_channels, key_channels, value_channels, num_heads=num_heads, norm=norm, terms=terms
        )
        self.axis = axis
        self.span = span
        self.max_span = max_span
        self.implementation = implementation

        key_shape = (2 * max_span - 1, key_channels // num_heads)
        value_shape = (2 * max_span - 1, value_channels // num_heads)
        self.query_table = _table(key_shape, terms.query_position)
        self.key_table = _table(key_shape, terms.key_position)
        self.value_table = _table(value_shape, terms.value_position)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Unit-variance projections and logit terms, as in the authors' code."""
        self.reset_projection()
        for table in (self.query_table, self.key_table, self.value_table):
            if table is not None:
                nn.init.normal_(table, std=table.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self._lines(self.project(x))
        retrieved = axial_attention(
            query,
            key,
            value,
            self.query_table,
            self.key_table,
            self.value_table,
            self._logit_scale(query, key),
            self.span,
            self.implementation,
            self.terms.query_key,
        )
        return self.combine(*retrieved, self._image)

    def _logit_scale(self, query: Tensor, key: Tensor) -> Tensor:
        moments = None
        if self.needs_moments:
            moments = logit_moments(
                query,
                key,
                self.query_table,
                self.key_table,
                self.span,
                self.implementation,
                self.terms.query_key,
            )
        return self.logit_scale(moments)

    def _lines(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """[B, C, H, W] → query, key, value as views [B, lines, N, L, channels a head]."""
        # Divided as an image: so the gradient, put together again, is one with channels last.
        parts = qkv.split([size for size in self.projected_channels if size], dim=1)
        lines = [part.permute(self._to_lines) for part in parts]  # [B, lines, L, C]
        heads = [line.unflatten(3, (self.num_heads, -1)).transpose(2, 3) for line in lines]
        return self.stand_in(heads)

    def _image(self, retrieved: Tensor) -> Tensor:
        """[B, lines, N, L, V] → [B, N·V, H, W]."""
        # The permutation is its own inverse for the height axis, not for the width axis.
        to_image = (0, 3, 2, 1) if self.axis == "height" else (0, 3, 1, 2)
        return retrieved.transpose(2, 3).flatten(3).permute(to_image)

    @property
    def _to_lines(self) -> tuple[int, ...]:
        return (0, 3, 2, 1) if self.axis == "height" else (0, 2, 3, 1)

    def extra_repr(self) -> str:
        span = self.span or "global"
        return f"axis={self.axis}, {super().extra_repr()}, span={span}, max_span={self.max_span}"


def _table(shape: tuple[int, int], exists: bool) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(shape)) if exists else None
