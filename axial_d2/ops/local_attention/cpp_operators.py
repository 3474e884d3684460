"""The C++ kernels' shapes and gradients, for autograd, ``torch.compile`` and ``torch.export``.

Importing this loads the compiled library; :mod:`.cpp` does so where there is one.
Shape letters as in :mod:`.shifts`; tables are [D, C].
"""

from __future__ import annotations

import torch
from axial_d2.ops import cpp_library
from axial_d2.ops.cpp_library import like
from axial_d2.ops.local_attention.terms import absent_as_none
from torch import Tensor

cpp_library.load()
_kernels = torch.ops.axial_d2_cpu


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    query_table: Tensor | None,
    key_table: Tensor | None,
    value_table: Tensor | None,
    scale: Tensor,
    row_reach: int,
    column_reach: int,
    query_key: bool,
) -> tuple[Tensor, Tensor]:
    """Content and position, nothing for an absent one.

    Args:
        query, key, value: [B, N, H, W, C].
        query_table, key_table, value_table: [D, C].
        scale: [3, N].
        row_reach, column_reach: of the window to either side, less than H and W.
    """
    tensors = (query, key, value, query_table, key_table, value_table, scale)
    learns = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )
    content, position, _ = _kernels.local_forward(
        *tensors, row_reach, column_reach, query_key, learns
    )
    return content, position


#: (query, key, query_table, key_table, row_reach, column_reach, query_key) → sums of the terms and
#: of their squares, [2, 3, N], float64.
moments = _kernels.local_moments


def _like_each(query: Tensor, tensors) -> list[Tensor]:  # pragma: no cover
    return [query.new_empty(0 if tensor is None else tensor.shape) for tensor in tensors]


@torch.library.register_fake("axial_d2_cpu::local_forward")
def _(
    query,
    key,
    value,
    query_table,
    key_table,
    value_table,
    scale,
    row_reach,
    column_reach,
    query_key,
    with_log_sum,
):  # pragma: no cover
    content = query.new_empty(0) if value is None else like(value)
    position = query.new_empty(0)
    if value_table is not None:
        shape = (*query.shape[:4], value_table.shape[1])
        position = query.new_empty(shape) if value is None else like(value)
    rows = query.shape[:4] if with_log_sum else (0, *query.shape[1:4])
    return content, position, query.new_empty(rows)


@torch.library.register_fake("axial_d2_cpu::local_backward")
def _(grad_content, grad_position, query, key, value, *others):  # pragma: no cover
    *tables, scale, _, _, _, _ = others
    grad_value = query.new_empty(0) if value is None else like(value)
    return [like(query), like(key), grad_value, *_like_each(query, (*tables, scale))]


@torch.library.register_fake("axial_d2_cpu::local_moments")
def _(query, *others):  # pragma: no cover
    return query.new_empty(2, 3, query.shape[1], dtype=torch.float64)


@torch.library.register_fake("axial_d2_cpu::local_moments_backward")
def _(offset, slope, query, key, query_table, key_table, *others):  # pragma: no cover
    return [like(query), like(key), *_like_each(query, (query_table, key_table))]


def _save_attention(ctx, inputs, output) -> None:
    *tensors, row_reach, column_reach, query_key, _ = inputs
    ctx.options = row_reach, column_reach, query_key
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _attention_gradients(ctx, grad_content, grad_position, _):
    *tensors, log_sum = ctx.saved_tensors
    value, value_table = tensors[2], tensors[5]
    found = _kernels.local_backward(
        None if value is None else grad_content,
        None if value_table is None else grad_position,
        *tensors,
        log_sum,
        *ctx.options,
    )
    return *absent_as_none(found, tensors), None, None, None, None


def _save_moments(ctx, inputs, output) -> None:
    *tensors, row_reach, column_reach, query_key = inputs
    ctx.options = row_reach, column_reach, query_key
    ctx.save_for_backward(*tensors)


def _moments_gradients(ctx, grad_sums):
    tensors = ctx.saved_tensors
    # A sum's gradient goes to every pair, a square's times twice the logit.
    offset, squares = grad_sums.to(tensors[0].dtype).unbind(0)
    found = _kernels.local_moments_backward(offset, 2 * squares, *tensors, *ctx.options)
    return *absent_as_none(found, tensors), None, None, None


torch.library.register_autograd(
    "axial_d2_cpu::local_forward", _attention_gradients, setup_context=_save_attention
)
torch.library.register_autograd(
    "axial_d2_cpu::local_moments", _moments_gradients, setup_context=_save_moments
)
for _operator in ("local_backward", "local_moments_backward"):
    cpp_library.refuse_derivative(_operator)
