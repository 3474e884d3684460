"""The C++ kernels' shapes and gradients, for autograd, ``torch.compile`` and ``torch.export``.

Importing this loads the compiled library; :mod:`.cpp` does so where there is one.

Shape letters as in :mod:`.cpp`.
"""

from __future__ import annotations

import torch
from axial_d2.ops import cpp_library
from axial_d2.ops.cpp_library import like
from torch import Tensor

cpp_library.load()
_kernels = torch.ops.axial_d2_cpu


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_window: Tensor,
    key_window: Tensor,
    value_window: Tensor,
    scale: Tensor,
    span: int,
    position_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Content and position; with a position scale, which has no gradient, the sum and nothing.

    Args:
        query, key, value: [A, B, N, L, C].
        query_window, key_window, value_window: [D, C], embeddings of -(L - 1) … L - 1.
        scale: [3, N].
        span: odd, or 0.
        position_scale: [N, C], factors of position; without gradients alone.
    """
    tensors = (query, key, value, query_window, key_window, value_window, scale)
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    assert not (learns and position_scale is not None)
    content, position, _ = _kernels.forward(*tensors, position_scale, span, learns)
    return content, position


def moments(
    query: Tensor, key: Tensor, query_window: Tensor, key_window: Tensor, span: int, count: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the three logit terms, [3, N] each, over ``count`` pairs."""
    sums = _kernels.moments(query, key, query_window, key_window, span)
    mean, squares = (sums / count).unbind(0)
    return mean.to(query.dtype), (squares - mean.square()).clamp(min=0).to(query.dtype)


def _contiguous(tensor: Tensor) -> Tensor:  # pragma: no cover
    return tensor.new_empty(tensor.shape)


@torch.library.register_fake("axial_d2_cpu::forward")
def _(
    query,
    key,
    value,
    query_window,
    key_window,
    value_window,
    scale,
    position_scale,
    span,
    with_log_sum,
):  # pragma: no cover
    rows = query.shape[:-1] if with_log_sum else (0, *query.shape[1:-1])
    position = like(value) if position_scale is None else value.new_empty(0, 0, 0, 0, 0)
    return like(value), position, query.new_empty(rows)


@torch.library.register_fake("axial_d2_cpu::backward")
def _(grad_content, grad_position, query, key, value, *others):  # pragma: no cover
    *tables_and_scale, _, _ = others
    return [like(query), like(key), like(value), *map(_contiguous, tables_and_scale)]


@torch.library.register_fake("axial_d2_cpu::moments")
def _(query, key, query_window, key_window, span):  # pragma: no cover
    return query.new_empty(2, 3, query.shape[2], dtype=torch.float64)


@torch.library.register_fake("axial_d2_cpu::moments_backward")
def _(offset, slope, query, key, query_window, key_window, span):  # pragma: no cover
    return [like(query), like(key), *map(_contiguous, (query_window, key_window))]


def _save_attention(ctx, inputs, output) -> None:
    *tensors, _, span, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.span = span


def _attention_gradients(ctx, grad_content, grad_position, _):
    saved = ctx.saved_tensors  # which checkpointing allows to be asked for once
    gradients = [
        torch.zeros_like(saved[2]) if gradient is None else gradient
        for gradient in (grad_content, grad_position)
    ]
    return *_kernels.backward(*gradients, *saved, ctx.span), None, None, None


def _save_moments(ctx, inputs, output) -> None:
    *tensors, span = inputs
    ctx.save_for_backward(*tensors)
    ctx.span = span


def _moments_gradients(ctx, grad_sums):
    saved = ctx.saved_tensors
    # A sum's gradient goes to every pair, a square's times twice the logit.
    offset, squares = grad_sums.to(saved[0].dtype).unbind(0)
    return *_kernels.moments_backward(offset, 2 * squares, *saved, ctx.span), None


torch.library.register_autograd(
    "axial_d2_cpu::forward", _attention_gradients, setup_context=_save_attention
)
torch.library.register_autograd(
    "axial_d2_cpu::moments", _moments_gradients, setup_context=_save_moments
)
for _operator in ("backward", "moments_backward"):
    cpp_library.refuse_derivative(_operator)
