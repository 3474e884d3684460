"""Moments of the logit terms, block by block, recomputed in the backward.

Shape letters as in :mod:`.shifts`; K channels of queries and keys.
"""

from __future__ import annotations

import torch
from axial_d2.ops.axial_attention.reference import LogitMoments, pairs_in_window
from axial_d2.ops.local_attention.shifts import Block, Grid
from axial_d2.ops.local_attention.terms import ADD_TERM, Terms, gradients
from axial_d2.ops.precision import without_autocast
from torch import Tensor


def _by_head(logits: Tensor, block: Block) -> Tensor:
    """[G, D, Q] as [images, heads, D, Q]."""
    return logits.unflatten(0, (-1, block.heads.stop - block.heads.start))


class _BlockedMoments(torch.autograd.Function):
    """Mean and biased variance of each term, [3, N], over ``count`` pairs a head."""

    @staticmethod
    def forward(ctx, grid, count, *terms):
        terms = Terms(*terms)
        features = terms.features
        seen, mean, squares = features.new_zeros(3, 3, features.shape[1])
        for block, in_block, border in terms.blocks(grid):
            inside = border.exp()
            for term, add in enumerate(ADD_TERM):
                logits = inside.new_zeros(len(in_block.features), *inside.shape)
                add(logits, grid, in_block)
                moments = _block_moments(_by_head(logits, block), inside)
                _merge([part[term, block.heads] for part in (seen, mean, squares)], moments)
        ctx.save_for_backward(mean, *terms)
        ctx.grid, ctx.count = grid, count
        return mean.clone(), squares / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_mean, grad_variance):
        with without_autocast(grad_mean):
            return _BlockedMoments._gradients(ctx, grad_mean, grad_variance)

    @staticmethod
    def _gradients(ctx, grad_mean, grad_variance):
        mean, *terms = ctx.saved_tensors
        terms, grid = Terms(*terms), ctx.grid
        total = terms.zeros_like()
        slope, constant = 2 * grad_variance / ctx.count, grad_mean / ctx.count
        for block, in_block, border in terms.blocks(grid):
            inside, upstream = border.exp(), []
            for term, add in enumerate(ADD_TERM):
                logits = inside.new_zeros(len(in_block.features), *inside.shape)
                add(logits, grid, in_block)
                center, factor, summand = (
                    part[term, block.heads, None, None] for part in (mean, slope, constant)
                )
                _by_head(logits, block).sub_(center).mul_(factor).add_(summand).mul_(inside)
                upstream.append(logits)
            total.add_block(grid, block, gradients(grid, in_block, upstream))
        return None, None, *total


def _block_moments(logits: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and sum of squared deviations, [N] each, of [images, N, D, Q] where inside."""
    count = inside.sum() * len(logits)
    mean = logits.mul_(inside).sum((0, 2, 3)) / count
    deviations = logits.sub_(mean[:, None, None]).mul_(inside)
    return count.expand_as(mean), mean, deviations.square_().sum((0, 2, 3))


def _merge(total: list[Tensor], part: tuple[Tensor, Tensor, Tensor]) -> None:
    """Adds the moments of a part to those of a total, in place, without cancellation."""
    (seen, mean, squares), (count, part_mean, part_squares) = total, part
    shift = part_mean - mean
    squares += part_squares + shift.square() * seen * count / (seen + count)
    mean += shift * count / (seen + count)
    seen += count


def logit_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    span: int = 7,
    query_key: bool = True,
) -> LogitMoments:
    """See :func:`axial_d2.ops.local_logit_moments`; no logits are kept."""
    images, heads, height, width, _ = query.shape
    count = images * pairs_in_window(height, span) * pairs_in_window(width, span)
    query, key = query.movedim(-1, 2), key.movedim(-1, 2)
    grid = Grid.of(query, span)
    terms = Terms.of(grid, query, key, query_table, key_table, query_key)
    if count == 0 or all(tensor is None for tensor in terms):
        return LogitMoments(query.new_zeros(3, heads), query.new_zeros(3, heads), count)
    mean, variance = _BlockedMoments.apply(grid, count, *terms)
    return LogitMoments(mean, variance, count)
