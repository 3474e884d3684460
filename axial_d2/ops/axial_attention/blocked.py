"""Attention along one axis in blocks that stay in cache, recomputed in the backward.

Same results as :mod:`.reference`, with memory O(L) a row instead of O(L²): no logit map outlives
its block, and the batch norm's moments come from small Gram matrices. README.md beside this file
has the derivations.

Shape letters as in the reference; G = B * N groups, one for each row and head (the tables are
shared by heads, so a group is the unit of work), D = 2L - 1 offsets, C channels. With a local
span, Q queries of one chunk meet the W keys in reach; with the whole axis there is one chunk, and
both are L.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from axial_d2.ops.axial_attention.blocks import (
    blocks_of,
    chunks_of,
    relative_embeddings,
    table_window,
)
from axial_d2.ops.axial_attention.moments import logit_moments
from torch import Tensor

__all__ = ["axial_attention", "logit_moments"]


def _block_weights(
    block: Sequence[Tensor], query_relative: Tensor, key_relative: Tensor, outside: Tensor | None
) -> Tensor:
    """Softmax weights of one block, [G, Q, W] (query, key).

    ``block`` holds the query and key of its groups, [G, Q or W, K] each: query, query for
    positions, key, key for positions. The embeddings are [Q, K, W] and [W, K, Q].
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

    ``*_relative`` are the [L, C, L] embeddings of :func:`relative_embeddings`, indexed by query
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
        for chunk in chunks_of(query.shape[1], span):
            rows, columns = chunk.queries, chunk.keys
            outside = chunk.outside(span, query.device)
            for part in blocks_of(query, chunk):
                weights = _block_weights(
                    (
                        query[part, rows],
                        query_position[part, rows],
                        key[part, columns],
                        key_position[part, columns],
                    ),
                    query_relative[rows, :, columns],
                    key_relative[columns, :, rows],
                    outside,
                )
                content[part, rows] = torch.bmm(weights, value[part, columns])
                position[part, rows] = torch.bmm(
                    weights.transpose(0, 1), value_relative[rows, :, columns].mT
                ).transpose(0, 1)
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
        saved = ctx.saved_tensors  # once: under checkpointing a second reading is an error
        query, query_position, key, key_position, value, *relative = saved
        gradients = [torch.zeros_like(tensor) for tensor in saved]
        for chunk in chunks_of(query.shape[1], ctx.span):
            rows, columns = chunk.queries, chunk.keys
            outside = chunk.outside(ctx.span, query.device)
            query_relative, key_relative, value_relative = in_chunk = [
                tensor[places, :, partners]
                for tensor, places, partners in zip(
                    relative, (rows, columns, rows), (columns, rows, columns), strict=True
                )
            ]
            sums = [torch.zeros_like(tensor) for tensor in in_chunk]
            for part in blocks_of(query, chunk):
                queries = (query[part, rows], query_position[part, rows])
                keys = (key[part, columns], key_position[part, columns])
                weights = _block_weights((*queries, *keys), query_relative, key_relative, outside)
                upstream = grad_content[part, rows]
                upstream_position = grad_position[part, rows].transpose(0, 1)
                gradients[4][part, columns] += torch.bmm(weights.mT, upstream)
                sums[2].baddbmm_(upstream_position.mT, weights.transpose(0, 1))

                grad_weights = torch.bmm(upstream, value[part, columns].mT)
                grad_weights.transpose(0, 1).baddbmm_(upstream_position, value_relative)
                logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)

                gradients[0][part, rows] = torch.bmm(logits, keys[0])
                gradients[2][part, columns] += torch.bmm(logits.mT, queries[0])
                by_query = logits.transpose(0, 1)
                gradients[1][part, rows] = torch.bmm(by_query, query_relative.mT).transpose(0, 1)
                sums[0].baddbmm_(queries[1].permute(1, 2, 0), by_query)
                by_key = logits.permute(2, 0, 1).contiguous()
                gradients[3][part, columns] += torch.bmm(by_key, key_relative.mT).transpose(0, 1)
                sums[1].baddbmm_(keys[1].permute(1, 2, 0), by_key)
            gradients[5][rows, :, columns] += sums[0]
            gradients[6][columns, :, rows] += sums[1]
            gradients[7][rows, :, columns] += sums[2]
        return *gradients, None


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
    values, embeddings = values_and_table(value, value_table, query)
    content, position = _BlockedAttention.apply(
        *(part.flatten(0, 1) for part in (query, query_position, key, key_position, values)),
        relative_embeddings(table_window(table_or_zeros(query_table, query), length)),
        relative_embeddings(table_window(table_or_zeros(key_table, key), length).flip(0)),
        relative_embeddings(table_window(embeddings, length)),
        0 if span >= 2 * length - 1 else span,
    )
    return (
        None if value is None else content.view_as(values),
        None if value_table is None else position.view_as(values),
    )


def table_or_zeros(table: Tensor | None, features: Tensor) -> Tensor:
    """A table of one row, shared by all offsets, adds nothing where a term is absent."""
    return features.new_zeros(1, features.shape[-1]) if table is None else table


def values_and_table(
    value: Tensor | None, value_table: Tensor | None, query: Tensor
) -> tuple[Tensor, Tensor]:
    if value is None:
        assert value_table is not None
        value = query.new_zeros(*query.shape[:-1], value_table.shape[1])
    return value, table_or_zeros(value_table, value)
