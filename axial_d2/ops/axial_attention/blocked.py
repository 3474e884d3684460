"""Attention along one axis in blocks that stay in cache, recomputed in the backward.

Same results as :mod:`.reference`, with memory O(L) a row instead of O(L²): no logit map outlives
its block, and the batch norm's moments come from small Gram matrices. README.md beside this file
has the derivations.

Shape letters as in the reference; G = B * N groups, one for each row and head (the tables are
shared by heads, so a group is the unit of work), D = 2L - 1 offsets, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from axial_d2.ops.axial_attention.reference import (
    LogitMoments,
    logit_terms,
    pairs_in_window,
    span_mask,
)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# One block's logits should stay in a CPU's cache, yet hold enough groups for products over them;
# a GPU wants few launches.
BLOCK_BYTES = 1 << 20
CUDA_BLOCK_BYTES = 1 << 28
MIN_BLOCK_GROUPS = 8


def _table_window(table: Tensor, length: int) -> Tensor:
    """Rows of the offsets -(L - 1) … L - 1, clamped to the table: [D, C]."""
    limit = (table.shape[0] - 1) // 2
    if length - 1 <= limit:
        return table[limit - length + 1 : limit + length]
    offsets = torch.arange(1 - length, length, device=table.device)
    return table[offsets.clamp(-limit, limit) + limit]


def _relative_embeddings(window: Tensor) -> Tensor:
    """For every position x the embeddings of its partners: [L, C, L] (x, channel, partner).

    ``window`` runs over partner - x from -(L - 1) to L - 1.
    """
    length = (window.shape[0] + 1) // 2
    return window.unfold(0, length, 1).flip(0)


def _block_weights(
    block: Sequence[Tensor], query_relative: Tensor, key_relative: Tensor, outside: Tensor | None
) -> Tensor:
    """Softmax weights of one block, [G, L, L] (query, key).

    ``block`` holds the query and key of its groups, [G, L, K] each: query, query for positions,
    key, key for positions.
    """
    query, query_position, key, key_position = block
    logits = torch.bmm(query, key.mT)
    # One product for each position, over all groups: the embeddings are the same for all.
    logits.transpose(0, 1).baddbmm_(query_position.transpose(0, 1), query_relative)
    logits += torch.bmm(key_position.transpose(0, 1), key_relative).permute(1, 2, 0)
    if outside is not None:
        logits.masked_fill_(outside, float("-inf"))
    return torch.softmax(logits, dim=-1)


class _BlockedAttention(torch.autograd.Function):
    """The op with the scales folded into the two copies of query and key.

    ``*_relative`` are the [L, C, L] embeddings of :func:`_relative_embeddings`, indexed by query
    for query and value and by key for key.
    """

    @staticmethod
    def forward(
        ctx,
        query,
        query_position,
        key,
        key_position,
        value,
        query_relative,
        key_relative,
        value_relative,
        span,
    ):
        content, position = torch.empty_like(value), torch.empty_like(value)
        outside = _outside(query, span)
        for part in _blocks(query):
            weights = _block_weights(
                [tensor[part] for tensor in (query, query_position, key, key_position)],
                query_relative,
                key_relative,
                outside,
            )
            torch.bmm(weights, value[part], out=content[part])
            position[part] = torch.bmm(weights.transpose(0, 1), value_relative.mT).transpose(0, 1)
        ctx.save_for_backward(
            query,
            query_position,
            key,
            key_position,
            value,
            query_relative,
            key_relative,
            value_relative,
        )
        ctx.span = span
        return content, position

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_content, grad_position):
        with torch.autocast(grad_content.device.type, enabled=False):
            return _BlockedAttention._gradients(ctx, grad_content, grad_position)

    @staticmethod
    def _gradients(ctx, grad_content, grad_position):
        query, query_position, key, key_position, value, *relative = ctx.saved_tensors
        query_relative, key_relative, value_relative = relative
        by_group = (query, query_position, key, key_position, value)
        grad_query, grad_query_position, grad_key, grad_key_position, grad_value = (
            torch.empty_like(tensor) for tensor in by_group
        )
        grad_query_relative, grad_key_relative, grad_value_relative = (
            torch.zeros_like(tensor) for tensor in relative
        )
        outside = _outside(query, ctx.span)
        for part in _blocks(query):
            weights = _block_weights(
                [tensor[part] for tensor in by_group[:4]], query_relative, key_relative, outside
            )
            upstream, upstream_position = grad_content[part], grad_position[part].transpose(0, 1)
            grad_value[part] = torch.bmm(weights.mT, upstream)
            grad_value_relative.baddbmm_(upstream_position.mT, weights.transpose(0, 1))

            grad_weights = torch.bmm(upstream, value[part].mT)
            grad_weights.transpose(0, 1).baddbmm_(upstream_position, value_relative)
            logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)

            grad_query[part] = torch.bmm(logits, key[part])
            grad_key[part] = torch.bmm(logits.mT, query[part])
            by_query = logits.transpose(0, 1)
            grad_query_position[part] = torch.bmm(by_query, query_relative.mT).transpose(0, 1)
            grad_query_relative.baddbmm_(query_position[part].permute(1, 2, 0), by_query)
            by_key = logits.permute(2, 0, 1).contiguous()
            grad_key_position[part] = torch.bmm(by_key, key_relative.mT).transpose(0, 1)
            grad_key_relative.baddbmm_(key_position[part].permute(1, 2, 0), by_key)
        return (
            grad_query,
            grad_query_position,
            grad_key,
            grad_key_position,
            grad_value,
            grad_query_relative,
            grad_key_relative,
            grad_value_relative,
            None,
        )


def _outside(query: Tensor, span: int) -> Tensor | None:
    return ~span_mask(query.shape[1], span, query.device) if span else None


def _block_bytes(query: Tensor) -> int:
    return CUDA_BLOCK_BYTES if query.is_cuda else BLOCK_BYTES


def _blocks(query: Tensor) -> Iterator[slice]:
    """Slices of groups whose logits fill about ``BLOCK_BYTES``."""
    groups, length, _ = query.shape
    size = _block_bytes(query) // max(1, length * length * query.element_size())
    block = max(MIN_BLOCK_GROUPS, size)
    for start in range(0, groups, block):
        yield slice(start, start + block)


def axial_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    query_table: Tensor | None,
    key_table: Tensor | None,
    value_table: Tensor | None,
    logit_scale: Tensor | None = None,
    span: int = 0,
    query_key: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """See :func:`axial_d2.ops.axial_attention`; absent terms cost as much as present ones."""
    length = query.shape[2]
    query_position, key_position = query, key
    if logit_scale is not None:
        content_scale, query_scale, key_scale = logit_scale[:, None, :, None, None].unbind(0)
        query, query_position = query * content_scale, query * query_scale
        key_position = key * key_scale
    if not query_key:
        query = torch.zeros_like(query)
    values, embeddings = _values_and_table(value, value_table, query)
    content, position = _BlockedAttention.apply(
        *(part.flatten(0, 1) for part in (query, query_position, key, key_position, values)),
        _relative_embeddings(_table_window(_table_or_zeros(query_table, query), length)),
        _relative_embeddings(_table_window(_table_or_zeros(key_table, key), length).flip(0)),
        _relative_embeddings(_table_window(embeddings, length)),
        0 if span >= 2 * length - 1 else span,
    )
    return (
        None if value is None else content.view_as(values),
        None if value_table is None else position.view_as(values),
    )


def _table_or_zeros(table: Tensor | None, features: Tensor) -> Tensor:
    """A table of one row, shared by all offsets, adds nothing where a term is absent."""
    return features.new_zeros(1, features.shape[-1]) if table is None else table


def _values_and_table(
    value: Tensor | None, value_table: Tensor | None, query: Tensor
) -> tuple[Tensor, Tensor]:
    if value is None:
        assert value_table is not None
        value = query.new_zeros(*query.shape[:3], value_table.shape[1])
    return value, _table_or_zeros(value_table, value)


def logit_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None,
    key_table: Tensor | None,
    span: int = 0,
    query_key: bool = True,
) -> LogitMoments:
    """See :func:`axial_d2.ops.logit_moments`; no logit map is kept."""
    rows, heads, length, _ = query.shape
    count = rows * pairs_in_window(length, span)
    if rows == 0:
        return LogitMoments(query.new_zeros(3, heads), query.new_zeros(3, heads), count)
    if span and span < 2 * length - 1:
        mean, variance = _local_moments(query, key, query_table, key_table, span, query_key)
        return LogitMoments(mean, variance, count)
    absent = (query.new_zeros(heads), query.new_zeros(heads))
    content = query_position = key_position = absent
    if query_key:
        content = _content_moments(query, key)
    if query_table is not None:
        query_position = _position_moments(query, _table_window(query_table, length))
    if key_table is not None:
        key_position = _position_moments(key, _table_window(key_table, length).flip(0))
    means, variances = zip(content, query_position, key_position, strict=True)
    return LogitMoments(torch.stack(means), torch.stack(variances), count)


def _content_moments(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q·k over rows and pairs, [N] each."""
    length, channels = query.shape[2:]
    if channels > length:
        variance, mean = torch.var_mean(query @ key.mT, dim=(0, 2, 3), correction=0)
        return mean, variance
    # Within a row from the covariances, then between the rows' means: all of it centred, so
    # that float32 does not cancel.
    query_mean, key_mean = query.mean(2, keepdim=True), key.mean(2, keepdim=True)  # [B, N, 1, K]
    query_covariance = query.mT @ query / length - query_mean.mT @ query_mean
    key_covariance = key.mT @ key / length - key_mean.mT @ key_mean
    within = (
        query_covariance * key_covariance
        + query_mean * query_mean.mT * key_covariance
        + key_mean * key_mean.mT * query_covariance
    ).sum((2, 3))
    between, mean = torch.var_mean((query_mean * key_mean).sum((2, 3)), dim=0, correction=0)
    return mean, within.mean(0) + between


def _position_moments(features: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_i·r_{j-i} over rows and pairs, [N] each.

    Args:
        features: x, [B, N, L, K].
        window: table rows of the offsets -(L - 1) … L - 1, [D, K].
    """
    rows, _, length, channels = features.shape
    neighbours = _relative_embeddings(window)
    center = features.mean(0)  # [N, L, K]
    between, mean = torch.var_mean(center.transpose(0, 1) @ neighbours, dim=(0, 2), correction=0)
    deviations = (features - center).permute(1, 2, 3, 0)  # [N, L, K, B]
    if channels <= max(length, rows):
        gram = deviations @ deviations.mT
        squares = torch.einsum("nikl,ikl->n", gram, neighbours @ neighbours.mT)
    else:
        squares = (deviations.mT @ neighbours).square().sum((1, 2, 3))
    return mean, squares / (rows * length * length) + between


def _local_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None,
    key_table: Tensor | None,
    span: int,
    query_key: bool,
) -> tuple[Tensor, Tensor]:
    """Moments inside a window, in blocks of rows whose logits are recomputed in the backward."""
    rows, heads, length, _ = query.shape
    inside = span_mask(length, span, query.device)
    windows = [
        None if table is None else _table_window(table, length)
        for table in (query_table, key_table)
    ]

    def block_moments(
        query: Tensor, key: Tensor, query_window: Tensor | None, key_window: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        terms = logit_terms(query, key, query_window, key_window, query_key)[..., inside]
        return torch.var_mean(terms, dim=(1, 3), correction=0)

    block = max(1, _block_bytes(query) // (3 * heads * length * length * query.element_size()))
    parts = [slice(start, min(start + block, rows)) for start in range(0, rows, block)]
    moments = [
        checkpoint(
            block_moments,
            query[part],
            key[part],
            *windows,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for part in parts
    ]
    variances, means = (torch.stack(each) for each in zip(*moments, strict=True))
    shares = query.new_tensor([part.stop - part.start for part in parts])[:, None, None] / rows
    mean = (means * shares).sum(0)
    return mean, ((variances + (means - mean).square()) * shares).sum(0)
