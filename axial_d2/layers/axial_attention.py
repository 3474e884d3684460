"""Position-sensitive attention along one image axis (Axial-DeepLab, section 3)."""

from __future__ import annotations

import torch
from axial_d2.layers.norm import build_norm, logit_norm_scale, uses_batch_statistics
from axial_d2.ops import axial_attention, logit_moments
from axial_d2.ops.axial_attention import check_implementation, check_span
from detectron2.layers import Conv2d
from torch import Tensor, nn

AXES = ("height", "width")


class AxialAttention(nn.Module):
    """Attention over the columns (``axis="height"``) or the rows (``axis="width"``) of an image.

    Every position attends to the positions of its own column or row, or to a window of ``span``
    of them, with content and learned relative positions in query, key and value (eq. 4). Batch
    norms, none of them followed by a bias anywhere: on the projected query, key and value; on
    each logit term of each head; on the retrieved content and position terms, channel by
    channel, before they are added. The projection packs query | key | value, heads outermost.

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
    ):
        super().__init__()
        if axis not in AXES:
            raise ValueError(f"axis {axis!r} is unknown; choose one of {AXES}.")
        if max_span < 1:
            raise ValueError(f"max_span {max_span} is too small; it must be at least 1.")
        check_span(span)
        check_implementation(implementation)
        check_heads(num_heads, key_channels, value_channels)
        self.axis = axis
        self.num_heads = num_heads
        self.key_channels = key_channels
        self.value_channels = value_channels
        self.span = span
        self.max_span = max_span
        self.implementation = implementation

        projected = 2 * key_channels + value_channels
        self.qkv = Conv2d(
            in_channels, projected, kernel_size=1, bias=False, norm=build_norm(norm, projected)
        )
        self.logit_norm = build_norm(norm, 3 * num_heads)
        self.retrieved_norm = build_norm(norm, 2 * value_channels)
        rows = 2 * max_span - 1
        self.query_table = nn.Parameter(torch.empty(rows, key_channels // num_heads))
        self.key_table = nn.Parameter(torch.empty(rows, key_channels // num_heads))
        self.value_table = nn.Parameter(torch.empty(rows, value_channels // num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Unit-variance projections and logit terms, as in the authors' code."""
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_channels**-0.5)
        for table in (self.query_table, self.key_table, self.value_table):
            nn.init.normal_(table, std=table.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self._lines(self.qkv(x))
        content, position = axial_attention(
            query,
            key,
            value,
            self.query_table,
            self.key_table,
            self.value_table,
            self._logit_scale(query, key),
            self.span,
            self.implementation,
        )
        retrieved = torch.cat([self._image(content, x), self._image(position, x)], dim=1)
        content, position = self.retrieved_norm(retrieved).chunk(2, dim=1)
        return content + position

    def _logit_scale(self, query: Tensor, key: Tensor) -> Tensor:
        moments = None
        if uses_batch_statistics(self.logit_norm):
            moments = logit_moments(
                query, key, self.query_table, self.key_table, self.span, self.implementation
            )
        return logit_norm_scale(self.logit_norm, moments)

    def _lines(self, qkv: Tensor) -> list[Tensor]:
        """[B, C, H, W] → query, key, value as [lines, N, L, channels a head]."""
        if 1 in qkv.shape[2:] and qkv.requires_grad:
            # Batch norm's backward on CPUs (PyTorch 2.11) misreads a gradient whose strides are
            # ambiguous.
            qkv.register_hook(Tensor.contiguous)
        dims = (0, 3, 2, 1) if self.axis == "height" else (0, 2, 3, 1)
        lines = qkv.permute(dims).flatten(0, 1)  # [lines, L, C]
        parts = lines.split((self.key_channels, self.key_channels, self.value_channels), dim=2)
        heads = [part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts]
        return [head.contiguous() for head in heads]

    def _image(self, retrieved: Tensor, x: Tensor) -> Tensor:
        """[lines, N, L, V] → [B, N·V, H, W]."""
        batch, _, height, width = x.shape
        lines = retrieved.transpose(1, 2).flatten(2)  # [lines, L, N·V]
        if self.axis == "height":
            return lines.unflatten(0, (batch, width)).permute(0, 3, 2, 1)
        return lines.unflatten(0, (batch, height)).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        span = self.span or "global"
        return (
            f"axis={self.axis}, num_heads={self.num_heads}, key_channels={self.key_channels}, "
            f"value_channels={self.value_channels}, span={span}, max_span={self.max_span}"
        )


def check_heads(num_heads: int, key_channels: int, value_channels: int) -> None:
    """Raises ValueError unless the heads divide both channel counts."""
    if num_heads < 1 or key_channels % num_heads or value_channels % num_heads:
        raise ValueError(
            f"num_heads {num_heads} does not divide key_channels {key_channels} and "
            f"value_channels {value_channels}; choose a number of heads that divides both, or "
            "another width."
        )
