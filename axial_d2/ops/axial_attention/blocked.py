"""Attention along one axis in blocks that stay in cache, recomputed in the backward.

Same results as :mod:`.reference`, with memory O(L) a row instead of O(L²): no logit map outlives
its block, and the batch norm's moments come from small Gram matrices. README.md beside this file
has the derivations.

Shape letters as in the reference; G = B * N groups, one for each row and head (the tables are
shared by heads, so a group is the unit of work), D = 2L - 1 offsets.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from axial_d2.ops.axial_attention.reference import LogitMoments, logit_terms, span_mask

# One block's logits and their skewed copies; about the level-2 cache of one core.
BLOCK_BYTES = 1 << 20


def _table_window(table: Tensor, length: int) -> Tensor:
    """Rows of the offsets -(L - 1) … L - 1, clamped to the table: [D, C]."""
    limit = (table.shape[0] - 1) // 2
    if length - 1 <= limit:
        return table[limit - length + 1 : limit + length]
    offsets = torch.arange(1 - length, length, device=table.device)
    return table[offsets.clamp(-limit, limit) + limit]


def _by_query(skewed: Tensor) -> Tensor:
    """View of [G, L, D] (query, offset + L - 1) as [G, L, L] (query, key)."""
    groups, length, offsets = skewed.shape
    return skewed.as_strided(
        (groups, length, length),
        (length * offsets, offsets - 1, 1),
        skewed.storage_offset() + length - 1,
    )


def _by_key(skewed: Tensor) -> Tensor:
    """View of [G, L, D] (key, L - 1 - offset) as [G, L, L] (query, key)."""
    return _by_query(skewed).transpose(1, 2)


def _skew(square: Tensor, buffer: Tensor, view) -> Tensor:
    """Writes [G, L, L] into the zeroed ``buffer`` through ``view``; returns [G, L, D]."""
    skewed = buffer[: square.shape[0]]
    view(skewed).copy_(square)
    return skewed


def _block_weights(
    query: Tensor,
    query_position: Tensor,
    key: Tensor,
    key_position: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    outside: Tensor | None,
) -> Tensor:
    """Softmax weights of one block, [G, L, L]; ``key_table`` comes with its rows reversed."""
    logits = torch.bmm(query, key.transpose(1, 2))
    logits += _by_query(query_position @ query_table.t())
    logits += _by_key(key_position @ key_table.t())
    if outside is not None:
        logits.masked_fill_(outside, float("-inf"))
    return torch.softmax(logits, dim=-1)


class _BlockedAttention(torch.autograd.Function):
    """Scales are folded into the two copies of query and key; tables are windows of D rows."""

    @staticmethod
    def forward(ctx, query, query_position, key, key_position, value, tables, span):
        query_table, key_table, value_table = tables.split(
            (query.shape[-1], query.shape[-1], value.shape[-1]), dim=1
        )
        groups, length, _ = query.shape
        content, position = torch.empty_like(value), torch.empty_like(value)
        outside = ~span_mask(length, span, query.device) if span else None
        block = _block_size(query)
        buffer = query.new_zeros(min(block, groups), length, 2 * length - 1)
        reversed_key_table = key_table.flip(0)
        for start in range(0, groups, block):
            part = slice(start, start + block)
            weights = _block_weights(
                query[part],
                query_position[part],
                key[part],
                key_position[part],
                query_table,
                reversed_key_table,
                outside,
            )
            torch.bmm(weights, value[part], out=content[part])
            position[part] = _skew(weights, buffer, _by_query) @ value_table
        ctx.save_for_backward(query, query_position, key, key_position, value, tables)
        ctx.span = span
        return content, position

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_content, grad_position):
        query, query_position, key, key_position, value, tables = ctx.saved_tensors
        channels = (query.shape[-1], query.shape[-1], value.shape[-1])
        query_table, key_table, value_table = tables.split(channels, dim=1)
        groups, length, _ = query.shape
        grad_query, grad_query_position = torch.empty_like(query), torch.empty_like(query)
        grad_key, grad_key_position = torch.empty_like(key), torch.empty_like(key)
        grad_value = torch.empty_like(value)
        grad_query_table = torch.zeros_like(query_table)
        grad_reversed_key_table = torch.zeros_like(key_table)
        grad_value_table = torch.zeros_like(value_table)
        outside = ~span_mask(length, ctx.span, query.device) if ctx.span else None
        block = _block_size(query)
        size = (min(block, groups), length, 2 * length - 1)
        by_query, by_key = query.new_zeros(size), query.new_zeros(size)
        reversed_key_table = key_table.flip(0)
        for start in range(0, groups, block):
            part = slice(start, start + block)
            weights = _block_weights(
                query[part],
                query_position[part],
                key[part],
                key_position[part],
                query_table,
                reversed_key_table,
                outside,
            )
            upstream, upstream_position = grad_content[part], grad_position[part]
            grad_value[part] = torch.bmm(weights.transpose(1, 2), upstream)
            grad_value_table += _outer(_skew(weights, by_query, _by_query), upstream_position)

            grad_weights = torch.bmm(upstream, value[part].transpose(1, 2))
            grad_weights += _by_query(upstream_position @ value_table.t())
            grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)

            grad_query[part] = torch.bmm(grad_logits, key[part])
            grad_key[part] = torch.bmm(grad_logits.transpose(1, 2), query[part])
            skewed = _skew(grad_logits, by_query, _by_query)
            grad_query_position[part] = skewed @ query_table
            grad_query_table += _outer(skewed, query_position[part])
            skewed = _skew(grad_logits, by_key, _by_key)
            grad_key_position[part] = skewed @ reversed_key_table
            grad_reversed_key_table += _outer(skewed, key_position[part])
        grad_tables = torch.cat(
            [grad_query_table, grad_reversed_key_table.flip(0), grad_value_table], dim=1
        )
        return (
            grad_query,
            grad_query_position,
            grad_key,
            grad_key_position,
            grad_value,
            grad_tables,
            None,
        )


def _block_size(query: Tensor) -> int:
    """Groups a block."""
    length = query.shape[1]
    bytes_a_group = length * (2 * length - 1) * query.element_size()
    return max(1, BLOCK_BYTES // bytes_a_group)


def _outer(skewed: Tensor, features: Tensor) -> Tensor:
    """Sum over groups and positions of skewed ⊗ features: [D, C]."""
    return skewed.flatten(0, 1).t() @ features.reshape(-1, features.shape[-1])


def axial_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_table: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    logit_scale: Tensor | None = None,
    span: int = 0,
) -> tuple[Tensor, Tensor]:
    """See :func:`axial_d2.ops.axial_attention`."""
    length = query.shape[2]
    if query.shape[0] == 0:
        return torch.empty_like(value), torch.empty_like(value)
    query_position, key_position = query, key
    if logit_scale is not None:
        content_scale, query_scale, key_scale = logit_scale[:, None, :, None, None].unbind(0)
        query, query_position = query * content_scale, query * query_scale
        key_position = key * key_scale
    tables = torch.cat([query_table, key_table, value_table], dim=1)
    content, position = _BlockedAttention.apply(
        *(part.flatten(0, 1) for part in (query, query_position, key, key_position, value)),
        _table_window(tables, length),
        0 if span >= 2 * length - 1 else span,
    )
    return content.view_as(value), position.view_as(value)


def logit_moments(
    query: Tensor, key: Tensor, query_table: Tensor, key_table: Tensor, span: int = 0
) -> LogitMoments:
    """See :func:`axial_d2.ops.logit_moments`; no logit map is kept."""
    length = query.shape[2]
    if span and span < 2 * length - 1:
        return _local_moments(query, key, query_table, key_table, span)
    count = query.shape[0] * length * length
    content = _content_sums(query, key)
    query_position = _position_sums(query, _table_window(query_table, length))
    key_position = _position_sums(key, _table_window(key_table, length).flip(0))
    mean, mean_square = torch.stack([content, query_position, key_position], dim=1) / count
    return LogitMoments(mean, (mean_square - mean.square()).clamp(min=0), count)


def _content_sums(query: Tensor, key: Tensor) -> Tensor:
    """Sums over rows and pairs of q·k and its square, [2, N]."""
    total = (query.sum(2) * key.sum(2)).sum((0, 2))
    if query.shape[3] <= query.shape[2]:
        squares = ((query.mT @ query) * (key.mT @ key)).sum((0, 2, 3))
    else:
        squares = (query @ key.mT).square().sum((0, 2, 3))
    return torch.stack([total, squares])


def _position_sums(features: Tensor, window: Tensor) -> Tensor:
    """Sums over rows and pairs of x_i·r_{j-i} and its square, [2, N].

    Args:
        features: x, [B, N, L, K].
        window: table rows of the offsets -(L - 1) … L - 1, [D, K].
    """
    _, heads, length, channels = features.shape
    neighbours = window.unfold(0, length, 1).flip(0)  # [L, K, L]: all r_{j-i} of query i
    total = torch.einsum("nik,ik->n", features.sum(0), neighbours.sum(-1))
    by_position = features.permute(1, 2, 3, 0)  # [N, L, K, B]
    if channels <= max(length, features.shape[0]):
        gram = by_position @ by_position.mT
        squares = torch.einsum("nikl,ikl->n", gram, neighbours @ neighbours.mT)
    else:
        squares = (by_position.mT @ neighbours).square().sum((1, 2, 3))
    return torch.stack([total, squares])


def _local_moments(
    query: Tensor, key: Tensor, query_table: Tensor, key_table: Tensor, span: int
) -> LogitMoments:
    """Moments inside a window, in blocks of rows whose logits are recomputed in the backward."""
    rows, heads, length, _ = query.shape
    inside = span_mask(length, span, query.device)
    window_query, window_key = (
        _table_window(table, length) for table in (query_table, key_table)
    )

    def block_sums(query, key, window_query, window_key):
        terms = logit_terms(query, key, window_query, window_key) * inside
        return torch.stack([terms.sum((1, 3, 4)), terms.square().sum((1, 3, 4))])

    block = max(1, BLOCK_BYTES // (3 * heads * length * length * query.element_size()))
    sums = query.new_zeros(2, 3, heads)
    for start in range(0, rows, block):
        part = slice(start, start + block)
        sums = sums + checkpoint(
            block_sums, query[part], key[part], window_query, window_key, use_reentrant=False
        )
    count = rows * int(inside.sum())
    mean, mean_square = sums / count
    return LogitMoments(mean, (mean_square - mean.square()).clamp(min=0), count)
