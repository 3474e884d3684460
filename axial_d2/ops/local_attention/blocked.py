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
from axial_d2.ops.local_attention.terms import (
    TERMS_SCHEMA,
    Terms,
    absent_as_none,
    add_terms,
    for_each_group,
    gradients,
    present,
    zeros_like,
)
from axial_d2.ops.precision import without_autocast
from torch import Tensor

__all__ = ["local_attention", "logit_moments"]


_ARGUMENTS = f"int span, Tensor? value, Tensor? value_table, {TERMS_SCHEMA}"


@torch.library.custom_op(
    "axial_d2::blocked_local_attention",
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
)
def _blocked_attention(span, value, value_table, *terms):
    """The op with channels before positions, and the scales folded into ``terms``.

    Opaque to ``torch.compile``, which would unroll the blocks. Returns content, position and the
    logarithm of the denominators; nothing for an absent one.
    """
    terms = Terms(*terms)
    grid = Grid.of(terms.features, span)
    content, position, normalizer = _outputs(value, value_table, terms)
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
    return content, position, normalizer


@_blocked_attention.register_fake
def _(span, value, value_table, *terms):
    return _outputs(value, value_table, Terms(*terms))


def _outputs(
    value: Tensor | None, value_table: Tensor | None, terms: Terms
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the results go; operators return tensors, so one without elements is an absent one."""
    features = terms.features
    images, heads, _, *size = features.shape
    content = features.new_empty(0) if value is None else value.new_empty(value.shape)
    position = features.new_empty(0)
    if value_table is not None:
        position = features.new_empty(images, heads, value_table.shape[1], *size)
    return content, position, features.new_empty(images, heads, 1, *size)


@torch.library.custom_op(
    "axial_d2::blocked_local_attention_backward",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, Tensor normalizer, Tensor grad_content, Tensor grad_position) "
    "-> Tensor[]",
)
def _backward(span, value, value_table, *others):
    *terms, normalizer, grad_content, grad_position = others
    with without_autocast(normalizer):
        gradients_of_values, grad_terms = _gradients(
            Terms(*terms), span, normalizer, (value, value_table), (grad_content, grad_position)
        )
    return present(normalizer, (*gradients_of_values, *grad_terms))


@_backward.register_fake
def _(span, value, value_table, *others):
    *terms, normalizer, _, _ = others
    return present(normalizer, map(zeros_like, (value, value_table, *terms)))


def _gradients(terms, span, normalizer, values, upstream_of_values):
    grid = Grid.of(terms.features, span)
    value, value_table = values
    grad_content, grad_position = upstream_of_values
    grad_value, grad_value_table = zeros_like(value), zeros_like(value_table)
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
    return (grad_value, grad_value_table), grad_terms


def _save(ctx, inputs, output):
    ctx.span, *tensors = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(ctx, grad_content, grad_position, _):
    *tensors, normalizer = ctx.saved_tensors
    found = _backward(ctx.span, *tensors, normalizer, grad_content, grad_position)
    return None, *absent_as_none(found, tensors)


_blocked_attention.register_autograd(_differentiate, setup_context=_save)


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
    content, position, _ = _blocked_attention(
        span,
        None if value is None else value.movedim(-1, 2),
        None if value_table is None else grid.table(value_table),
        *terms,
    )
    return (
        None if value is None else content.movedim(2, -1),
        None if value_table is None else position.movedim(2, -1),
    )
