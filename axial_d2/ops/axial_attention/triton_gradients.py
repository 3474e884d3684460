"""Allocations and launches of the fused backward.

Shape letters: B rows, N heads, L positions, K key and V value channels a head, R table rows.
"""

from __future__ import annotations

import torch
import triton
from axial_d2.ops.axial_attention.triton_backward import sum_products
from axial_d2.ops.axial_attention.triton_blocks import Blocks
from axial_d2.ops.axial_attention.triton_features import key_and_value_gradient, query_gradient
from axial_d2.ops.axial_attention.triton_launch import Call, Inputs
from axial_d2.ops.axial_attention.triton_tables import sum_table_parts, table_gradient_parts
from axial_d2.ops.fused_operators import (
    Gradients,
    Pair,
    Saved,
    empty_statistic,
    empty_tokens,
    tokens_where,
    zero_gradients,
)
from torch import Tensor

# Programs of the table kernel: enough to fill a GPU, and few enough to keep their parts small. Not
# a property of the device, on which sums in another order would depend.
TABLE_PROGRAMS = 1024
LINES = 64
TABLE_ROWS = 16
TABLE_SPLITS = 8


def backward(
    inputs: Inputs,
    saved: Saved,
    upstream: Pair,
    of_features: bool = True,
    of_tables: bool = True,
    blocks: Blocks | None = None,
) -> Gradients:
    """Gradients of the inputs from those of (content, position).

    ``of_features`` asks for those of query, key, value and the scales.
    """
    if saved.log_sum.numel() == 0:
        return zero_gradients(inputs[:7])
    call = Call(inputs, blocks)
    sources = (inputs.value, inputs.value_table)
    retrieved = tokens_where(sources, saved[:2])
    upstream = tokens_where(sources, upstream)
    statistics = saved.log_sum, _sum_products(call, retrieved, upstream)
    gradients: dict[str, Tensor | None] = {}
    if of_features:
        gradients.update(_feature_gradients(call, upstream, statistics))
    if of_tables and any(table is not None for table in call.tables):
        gradients.update(_table_gradients(call, upstream, statistics))
    return Gradients(**gradients)


def _sum_products(call: Call, retrieved: Pair, upstream: Pair) -> Tensor:
    query, channels = call.inputs.query, call.inputs.value_channels
    result = empty_statistic(query)
    sum_products[(triton.cdiv(result.numel(), LINES),)](
        retrieved,
        upstream,
        result,
        result.numel(),
        CHANNELS=channels,
        WIDTH=triton.next_power_of_2(channels),
        LINES=LINES,
    )
    return result


def _feature_gradients(
    call: Call, upstream: Pair, statistics: tuple[Tensor, Tensor]
) -> dict[str, Tensor | None]:
    inputs = call.inputs
    query, scale = inputs.query, inputs.logit_scale
    of_query, of_key = (empty_tokens(query, query.shape[3]) for _ in range(2))
    of_value = None if inputs.value is None else empty_tokens(inputs.value, inputs.value_channels)
    query_parts = call.position_blocks(call.blocks.queries) * call.key_chunks
    key_parts = call.position_blocks(call.blocks.keys) * call.constants["CHUNKS"]
    query_scales = key_scales = None
    if scale is not None:
        query_scales = scale.new_empty(2, query_parts, call.groups, dtype=torch.float32)
        key_scales = scale.new_empty(1, key_parts, call.groups, dtype=torch.float32)
    shared = (call.features, call.tables, call.limits, scale, upstream, statistics)
    warps = call.blocks.backward_warps
    call.launch(
        query_gradient,
        call.group_blocks * query_parts,
        warps,
        *shared,
        of_query,
        query_scales,
        *call.sizes,
    )
    call.launch(
        key_and_value_gradient,
        call.group_blocks * key_parts,
        warps,
        *shared,
        (of_key, of_value),
        key_scales,
        *call.sizes,
    )
    gradients = {"query": of_query, "key": of_key, "value": of_value}
    if scale is None:
        return gradients
    assert query_scales is not None
    assert key_scales is not None
    parts = torch.cat([query_scales.sum(1), key_scales.sum(1)])  # [3, groups]
    heads = query.shape[1]
    return {**gradients, "logit_scale": parts.view(3, -1, heads).sum(1).to(scale.dtype)}


def _table_gradients(
    call: Call, upstream: Pair, statistics: tuple[Tensor, Tensor]
) -> dict[str, Tensor | None]:
    block = call.blocks.queries
    outer = min(call.position_blocks(block) - 1, (call.reach + block - 1) // block)
    diagonals, chunks = 2 * outer + 1, call.constants["CHUNKS"]
    splits = min(call.group_blocks, max(1, TABLE_PROGRAMS // diagonals))
    widths = [chunks * call.blocks.key_chunk] * 2 + [chunks * call.blocks.value_chunk]
    parts = tuple(
        None
        if table is None
        else table.new_empty(splits, diagonals, 2 * block, width, dtype=torch.float32)
        for table, width in zip(call.tables, widths, strict=True)
    )
    call.launch(
        table_gradient_parts,
        diagonals * splits * chunks,
        call.blocks.backward_warps,
        call.features,
        call.tables,
        call.limits,
        call.inputs.logit_scale,
        upstream,
        statistics,
        parts,
        *call.sizes,
        outer,
        splits,
    )
    summed = [
        None if part is None else _summed(part, table, call.length, outer)
        for part, table in zip(parts, call.tables, strict=True)
    ]
    return dict(zip(("query_table", "key_table", "value_table"), summed, strict=True))


def _summed(parts: Tensor, table: Tensor | None, length: int, outer: int) -> Tensor:
    """Gradient of a table from its parts; offsets beyond it belong to its last rows."""
    assert table is not None
    rows, channels = table.shape
    limit = (rows - 1) // 2
    beyond = max(0, length - 1 - limit)
    center = limit + beyond
    result = table.new_empty(rows + 2 * beyond, channels, dtype=torch.float32 if beyond else None)
    chunk = min(32, max(16, triton.next_power_of_2(channels)))
    grid = (triton.cdiv(result.shape[0], TABLE_ROWS), triton.cdiv(channels, chunk))
    sum_table_parts[grid](
        parts,
        result,
        result.shape[0],
        center,
        outer,
        parts.shape[0],
        BLOCK=parts.shape[2] // 2,
        CHANNELS=channels,
        CHUNK=chunk,
        WIDTH=parts.shape[3],
        ROWS=TABLE_ROWS,
        SPLITS=TABLE_SPLITS,
    )
    if not beyond:
        return result
    inside = result[beyond:-beyond].clone()
    inside[0] += result[:beyond].sum(0)
    inside[-1] += result[-beyond:].sum(0)
    return inside.to(table.dtype)
