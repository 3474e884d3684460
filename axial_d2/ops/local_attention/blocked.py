"""Attention in a window of an image, block by block, recomputed in the backward.

Same results as :mod:`.reference` without its span² copies of the feature map: keys and values
are read where they lie, at their shift; no logits outlive their block; and the backward keeps
nothing but the inputs and one number for each query, the logarithm of its softmax's denominator.
README.md beside this file has the derivations.

Shape letters as in :mod:`.shifts`; V channels of values.
"""

from __future__ import annotations

import torch
from axial_d2.ops.local_attention.moments import logit_moments
from axial_d2.ops.local_attention.shifts import Grid
from axial_d2.ops.local_attention.terms import Terms, add_terms, for_each_group, gradients
from axial_d2.ops.precision import without_autocast
from torch import Tensor

__all__ = ["local_attention", "logit_moments"]


class _BlockedAttention(torch.autograd.Function):
    """The op with channels before positions, and the scales folded into ``terms``."""

    @staticmethod
    def forward(ctx, grid, value, value_table, *terms):
        terms = Terms(*terms)
        images, heads, _, *size = terms.features.shape
        normalizer = terms.features.new_empty(images, heads, 1, *size)
        content = position = None
        if value is not None:
            content = value.new_empty(value.shape)
        if value_table is not None:
            position = value_table.new_empty(images, heads, value_table.shape[1], *size)
        for block, in_block, border in terms.blocks(grid):
            logits = border.repeat(len(in_block.features), 1, 1)
            # Queries in the padding have no keys; they become NaN and stay in the padding.
            largest = add_terms(logits, grid, in_block).amax(1, keepdim=True)
            weights = logits.sub_(largest).exp_()
            total = weights.sum(1, keepdim=True)
            grid.write_queries(normalizer, block, total.log() + largest)
            if value is not None:
                sums = weights.new_zeros(len(weights), value.shape[2], weights.shape[2])
                grid.add_weighted_keys(sums, weights, grid.lay_keys(value, block))
                grid.write_queries(content, block, sums.div_(total))
            if value_table is not None:
                sums = torch.bmm(for_each_group(value_table.mT, weights), weights)
                grid.write_queries(position, block, sums.div_(total))
        ctx.save_for_backward(normalizer, value, value_table, *terms)
        ctx.grid = grid
        return content, position

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_content, grad_position):
        # Not a saved tensor: under checkpointing they can be read once.
        with without_autocast(grad_position if grad_content is None else grad_content):
            return _BlockedAttention._gradients(ctx, grad_content, grad_position)

    @staticmethod
    def _gradients(ctx, grad_content, grad_position):
        normalizer, value, value_table, *terms = ctx.saved_tensors
        terms, grid = Terms(*terms), ctx.grid
        grad_value, grad_value_table = (
            None if tensor is None else torch.zeros_like(tensor) for tensor in (value, value_table)
        )
        grad_terms = terms.zeros_like()
        for block, in_block, border in terms.blocks(grid):
            logits = border - grid.lay_queries(normalizer, block)
            weights = add_terms(logits, grid, in_block).exp_()
            if grad_value_table is not None:
                upstream = grid.lay_queries(grad_position, block)
                grad_weights = torch.bmm(for_each_group(value_table, weights), upstream)
                grad_value_table += torch.bmm(weights, upstream.mT).sum(0)
            else:
                grad_weights = torch.zeros_like(weights)
            if grad_value is not None:
                upstream, keys = grid.lay_queries(grad_content, block), grid.lay_keys(value, block)
                grid.add_products(grad_weights, upstream, keys)
                grid.add_weighted_queries(keys.zero_(), weights, upstream)
                grid.add_keys(grad_value, block, keys)
            grad_logits = grad_weights.mul_(weights)
            grad_logits.addcmul_(weights, grad_logits.sum(1, keepdim=True), value=-1)
            grad_terms.add_block(grid, block, gradients(grid, in_block, [grad_logits] * 3))
        return None, grad_value, grad_value_table, *grad_terms


def local_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    value_table: Tensor | None = None,
    logit_scale: Tensor | None = None,
    span: int = 7,
    query_key: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """See :func:`axial_d2.ops.local_attention`."""
    query, key = query.movedim(-1, 2), key.movedim(-1, 2)
    grid = Grid.of(query, span)
    terms = Terms.of(grid, query, key, query_table, key_table, query_key)
    if logit_scale is not None:
        terms = terms.scaled(logit_scale)
    content, position = _BlockedAttention.apply(
        grid,
        None if value is None else value.movedim(-1, 2),
        None if value_table is None else grid.table(value_table),
        *terms,
    )
    return (
        None if content is None else content.movedim(2, -1),
        None if position is None else position.movedim(2, -1),
    )
