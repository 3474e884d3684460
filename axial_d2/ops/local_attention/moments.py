"""Moments of the logit terms, block by block, recomputed in the backward.

Shape letters as in :mod:`.shifts`; K channels of queries and keys.
"""

from __future__ import annotations

import torch
from axial_d2.ops.axial_attention.reference import LogitMoments, pairs_in_window
from axial_d2.ops.local_attention.shifts import Block, Grid
from axial_d2.ops.local_attention.terms import (
    ADD_TERM,
    TERMS_SCHEMA,
    Terms,
    absent_as_none,
    gradients,
    present,
)
from axial_d2.ops.precision import without_autocast
from torch import Tensor

_ARGUMENTS = f"int span, int count, {TERMS_SCHEMA}"


@torch.library.custom_op(
    "axial_d2::blocked_local_moments",
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)",
)
def _blocked_moments(span, count, *terms):
    """Mean and biased variance of each term, [3, N], over ``count`` pairs a head.

    Opaque to ``torch.compile``, which would unroll the blocks.
    """
    terms = Terms(*terms)
    features = terms.features
    grid = Grid.of(features, span)
    seen, mean, squares = features.new_zeros(3, 3, features.shape[1])
    for block, in_block, border in terms.blocks(grid):
        inside = border.exp()
        for term, add in enumerate(ADD_TERM):
            logits = inside.new_zeros(len(in_block.features), *inside.shape)
            add(logits, grid, in_block)
            moments = _block_moments(_by_head(logits, block), inside)
            _merge([part[term, block.heads] for part in (seen, mean, squares)], moments)
    return mean.clone(), squares / count


@_blocked_moments.register_fake
def _(span, count, *terms):
    features = Terms(*terms).features
    return features.new_empty(3, features.shape[1]), features.new_empty(3, features.shape[1])


@torch.library.custom_op(
    "axial_d2::blocked_local_moments_backward",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, Tensor mean, Tensor grad_mean, Tensor grad_variance) -> Tensor[]",
)
def _backward(span, count, *others):
    *terms, mean, grad_mean, grad_variance = others
    with without_autocast(mean):
        slope, constant = 2 * grad_variance / count, grad_mean / count
        return present(mean, _gradients(Terms(*terms), span, mean, slope, constant))


@_backward.register_fake
def _(span, count, *others):
    *terms, mean, _, _ = others
    return present(mean, Terms(*terms).zeros_like())


def _gradients(terms: Terms, span: int, mean: Tensor, slope: Tensor, constant: Tensor) -> Terms:
    grid = Grid.of(terms.features, span)
    total = terms.zeros_like()
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
    return total


def _save(ctx, inputs, output):
    ctx.span, ctx.count, *terms = inputs
    ctx.save_for_backward(*terms, output[0])


def _differentiate(ctx, grad_mean, grad_variance):
    *terms, mean = ctx.saved_tensors
    found = _backward(ctx.span, ctx.count, *terms, mean, grad_mean, grad_variance)
    return None, None, *absent_as_none(found, terms)


_blocked_moments.register_autograd(_differentiate, setup_context=_save)


def _by_head(logits: Tensor, block: Block) -> Tensor:
    """[G, D, Q] as [images, heads, D, Q]."""
    return logits.unflatten(0, (-1, block.heads.stop - block.heads.start))


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
    mean, variance = _blocked_moments(span, count, *terms)
    return LogitMoments(mean, variance, count)
