"""The C++ kernels' shapes and gradients, for autograd, ``torch.compile`` and ``torch.export``.

Importing this loads the compiled library; :mod:`.cpp` does so where there is one.

Shape letters as in :mod:`.cpp`.
"""

from __future__ import annotations

import torch
from axial_d2.ops import cpp_library
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
) -> tuple[Tensor, Tensor]:
    """Content and position.

    Args:
        query, key, value: [A, B, N, L, C].
        query_window, key_window, value_window: [D, C], embeddings of -(L - 1) … L - 1.
        scale: [3, N].
        span: odd, or 0.
    """
    tensors = (query, key, value, query_window, key_window, value_window, scale)
    learns = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    content, position, _ = _kernels.forward(*tensors, span, learns)
    return content, position


def moments(
    query: Tensor, key: Tensor, query_window: Tensor, key_window: Tensor, span: int, count: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the three logit terms, [3, N] each, over ``count`` pairs."""
    sums = _kernels.moments(query, key, query_window, key_window, span)
    mean, squares = (sums / count).unbind(0)
    return mean.to(query.dtype), (squares - mean.square()).clamp(min=0).to(query.dtype)


def _like(tensor: Tensor) -> Tensor:
    """Dense, its dimensions in memory in the order of the tensor's."""
    order = sorted(range(tensor.dim()), key=lambda dim: tensor.stride()[dim], reverse=True)
    sizes = [tensor.shape[dim] for dim in order]
    inverse = [order.index(dim) for dim in range(tensor.dim())]
    return tensor.new_empty(sizes).permute(inverse)


@torch.library.register_fake("axial_d2_cpu::forward")
def _(
    query, key, value, query_window, key_window, value_window, scale, span, with_log_sum
):  # pragma: no cover
    rows = query.shape[:-1] if with_log_sum else (0, *query.shape[1:-1])
    return _like(value), _like(value), query.new_empty(rows)


@torch.library.register_fake("axial_d2_cpu::backward")
def _(grad_content, grad_position, query, key, value, *others):  # pragma: no cover
    *tables_and_scale, _, _ = others
    return [_like(query), _like(key), _like(value), *map(torch.empty_like, tables_and_scale)]


@torch.library.register_fake("axial_d2_cpu::moments")
def _(query, key, query_window, key_window, span):  # pragma: no cover
    return query.new_empty(2, 3, query.shape[2], dtype=torch.float64)


@torch.library.register_fake("axial_d2_cpu::moments_backward")
def _(offset, slope, query, key, query_window, key_window, span):  # pragma: no cover
    return [_like(query), _like(key), *map(torch.empty_like, (query_window, key_window))]


def _save_attention(ctx, inputs, output) -> None:
    *tensors, span, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.span = span


def _attention_gradients(ctx, grad_content, grad_position, _):
    saved = ctx.saved_tensors  # which checkpointing allows to be asked for once
    gradients = [
        torch.zeros_like(saved[2]) if gradient is None else gradient
        for gradient in (grad_content, grad_position)
    ]
    return *_kernels.backward(*gradients, *saved, ctx.span), None, None


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
