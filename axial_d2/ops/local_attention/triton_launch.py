"""Allocations and launches of the fused kernels, and the operator that they are.

Importing this imports Triton and registers the operator; :mod:`.triton` does so when it is first
called.

Shape letters: B images, N heads, H rows, W columns, K key and V value channels a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from axial_d2.ops.fused_operators import (
    Gradients,
    Pair,
    Saved,
    empty_statistic,
    empty_tokens,
    fused_operator,
    tokens,
    tokens_where,
    zero_gradients,
)
from axial_d2.ops.local_attention.triton_backward import (
    key_and_value_gradient,
    query_gradient,
    table_gradient_parts,
)
from axial_d2.ops.local_attention.triton_forward import attend
from torch import Tensor

# Numbers of one tensor in a tile, 8 a thread, and queries at most.
TILE_NUMBERS = 1024
LARGEST_TILE = 128
WARPS = 4
# Programs of the table kernel: enough to fill a GPU, and few enough to keep their parts small. Not
# a property of the device, on which sums in another order would depend.
TABLE_PROGRAMS = 4096


class Inputs(NamedTuple):
    """The op's arguments."""

    query: Tensor
    key: Tensor
    value: Tensor | None
    query_table: Tensor | None
    key_table: Tensor | None
    value_table: Tensor | None
    logit_scale: Tensor | None
    span: int
    query_key: bool

    @property
    def value_channels(self) -> int:
        source = self.value if self.value is not None else self.value_table
        assert source is not None
        return source.shape[-1]


class Call:
    """Arguments of a call in the kernels' terms: tuples of pointers, sizes and constants."""

    def __init__(self, inputs: Inputs):
        images, heads, height, width, key_channels = inputs.query.shape
        self.queries = images * heads * height * width
        self.features = tuple(map(_addressable, inputs[:3]))
        self.tables = tuple(None if each is None else each.contiguous() for each in inputs[3:6])
        scale = inputs.logit_scale
        self.logit_scale = None if scale is None else scale.contiguous()
        self.sizes = (self.queries, (height, width), tuple(map(_strides, self.features)))
        widest = triton.next_power_of_2(max(key_channels, inputs.value_channels))
        tile = min(LARGEST_TILE, TILE_NUMBERS // widest)
        self.tiles = triton.cdiv(self.queries, tile)
        self.constants: dict[str, Any] = {
            "HEADS": heads,
            "SPAN": inputs.span,
            "KEY_CHANNELS": key_channels,
            "VALUE_CHANNELS": inputs.value_channels,
            "QUERY_KEY": inputs.query_key,
            "TILE": tile,
        }

    def launch(self, kernel: Any, programs: int, *arguments: Any) -> None:
        given = (self.features, self.tables, self.logit_scale, *arguments)
        kernel[(programs,)](*given, **self.constants, num_warps=WARPS)


def forward(*arguments: Any) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Content, position, and the log-sum-exp over log 2 as [B, H, W, N]."""
    inputs = Inputs._make(arguments)
    query, channels = inputs.query, inputs.value_channels
    content = None if inputs.value is None else empty_tokens(query, channels)
    position = None if inputs.value_table is None else empty_tokens(query, channels)
    log_sum = empty_statistic(query)
    if log_sum.numel():
        call = Call(inputs)
        call.launch(attend, call.tiles, (content, position), log_sum, *call.sizes)
    return content, position, log_sum


def backward(
    arguments: Sequence[Any], saved: Saved, upstream: Pair, of_features: bool, of_tables: bool
) -> Gradients:
    """Gradients of the inputs from those of (content, position).

    ``of_features`` asks for those of query, key, value and the scales.
    """
    inputs = Inputs._make(arguments)
    if saved.log_sum.numel() == 0:
        return zero_gradients(inputs[:7])
    call, query = Call(inputs), inputs.query
    sources = (inputs.value, inputs.value_table)
    retrieved, upstream = (tokens_where(sources, pair) for pair in (saved[:2], upstream))
    statistics = saved.log_sum, empty_statistic(query)
    of_query, of_key = (empty_tokens(query, query.shape[-1]) for _ in range(2))
    of_value = None if inputs.value is None else empty_tokens(query, inputs.value_channels)
    of_scale = None
    if inputs.logit_scale is not None:
        of_scale = query.new_empty(3, call.queries, dtype=torch.float32)
    # The first one's second statistic is needed by the others.
    call.launch(
        query_gradient,
        call.tiles,
        retrieved,
        upstream,
        statistics,
        of_query,
        of_scale,
        *call.sizes,
    )
    found: dict[str, Tensor | None] = {}
    if of_features:
        call.launch(
            key_and_value_gradient,
            call.tiles,
            upstream,
            statistics,
            (of_key, of_value),
            of_scale,
            *call.sizes,
        )
        found = {"query": of_query, "key": of_key, "value": of_value}
    if of_features and inputs.logit_scale is not None and of_scale is not None:
        by_head = of_scale.view(3, -1, query.shape[1]).sum(1)
        found["logit_scale"] = by_head.to(inputs.logit_scale.dtype)
    if of_tables and any(table is not None for table in call.tables):
        found.update(_table_gradients(call, upstream, statistics))
    return Gradients(**found)


def _table_gradients(
    call: Call, upstream: Pair, statistics: tuple[Tensor, Tensor]
) -> dict[str, Tensor | None]:
    offsets = call.constants["SPAN"] ** 2
    splits = min(call.tiles, max(1, TABLE_PROGRAMS // offsets))
    parts = tuple(
        None if table is None else table.new_empty(splits, *table.shape, dtype=torch.float32)
        for table in call.tables
    )
    call.launch(
        table_gradient_parts,
        offsets * splits,
        upstream,
        statistics,
        parts,
        *call.sizes,
        splits,
    )
    return {
        name: None if part is None or table is None else part.sum(0).to(table.dtype)
        for name, part, table in zip(Gradients._fields[3:6], parts, call.tables, strict=True)
    }


def _addressable(tensor: Tensor | None) -> Tensor | None:
    """Features whose heads and channels lie as the kernels want them; a copy if they do not."""
    if tensor is None:
        return None
    _, heads, _, _, channels = tensor.shape
    by_head, by_channel = tensor.stride(1), tensor.stride(4)
    if (heads == 1 or by_head == channels) and (channels == 1 or by_channel == 1):
        return tensor
    return tokens(tensor)


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    """Of image, row and column; 0 for what is absent or has one entry."""
    if tensor is None:
        return 0, 0, 0
    return tuple(tensor.stride(axis) if tensor.shape[axis] > 1 else 0 for axis in (0, 2, 3))


fused_local_attention = fused_operator("fused_local_attention", forward, backward)
