"""The fused kernels as operators of PyTorch, with their shapes and their gradients.

They are opaque to ``torch.compile``, which needs only the shapes: block shapes and numbers of
programs are plain Python, and Triton's interpreter takes the same path on a CPU.

Importing this imports Triton and registers the operators; :mod:`.triton` does so when it is first
called.

Shape letters: B rows, N heads, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from axial_d2.ops.axial_attention import triton_gradients, triton_launch
from axial_d2.ops.axial_attention.triton_gradients import Saved
from axial_d2.ops.axial_attention.triton_launch import Inputs
from torch import Tensor

ARITHMETIC = {torch.bfloat16: "bfloat16", torch.float16: "float16"}

_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor? value, Tensor? query_table, Tensor? key_table, "
    "Tensor? value_table, Tensor? logit_scale, int span, bool query_key"
)


def _allows_tf32() -> bool:
    """PyTorch's own switch, whichever of its two interfaces has been used to set it."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return torch.backends.cuda.matmul.fp32_precision == "tf32"
    return torch.backends.cuda.matmul.allow_tf32


def _inputs(*arguments: Any) -> Inputs:
    exact = "tf32" if _allows_tf32() else "float32"
    return Inputs._make((*arguments, ARITHMETIC.get(arguments[0].dtype, exact)))


def _present(like: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """Operators return tensors; one without elements stands for what is absent."""
    return [like.new_empty(0) if tensor is None else tensor for tensor in tensors]


def _tokens_like(query: Tensor, source: Tensor | None) -> Tensor | None:
    """Shape and strides of what the kernels return for queries of the channels of ``source``."""
    if source is None:
        return None
    rows, heads, length, _ = query.shape
    return query.new_empty(rows, length, heads, source.shape[-1]).transpose(1, 2)


@torch.library.custom_op(
    "axial_d2::fused_axial_attention",
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
)
def fused_axial_attention(*arguments):
    content, position, log_sum = _present(arguments[0], triton_launch.forward(_inputs(*arguments)))
    return content, position, log_sum


@fused_axial_attention.register_fake
def _(query, key, value, query_table, key_table, value_table, logit_scale, span, query_key):
    rows, heads, length, _ = query.shape
    log_sum = query.new_empty(rows, length, heads, dtype=torch.float32)
    retrieved = [_tokens_like(query, source) for source in (value, value_table)]
    return (*_present(query, retrieved), log_sum)


@torch.library.custom_op(
    "axial_d2::fused_axial_attention_backward",
    mutates_args=(),
    schema=(
        f"({_ARGUMENTS}, Tensor content, Tensor position, Tensor log_sum, Tensor grad_content, "
        "Tensor grad_position, bool features, bool tables) -> Tensor[]"
    ),
)
def _backward(*arguments):
    """Gradients of the seven tensors; those of features and scale, or of tables, on request."""
    inputs = _inputs(*arguments[:9])
    saved, upstream = Saved(*arguments[9:12]), arguments[12:14]
    gradients = triton_gradients.backward(inputs, saved, upstream, *arguments[14:])
    return _present(inputs.query, gradients)


@_backward.register_fake
def _(query, key, value, *others):
    tables, scale, (features, of_tables) = others[:3], others[3], others[-2:]
    gradients = [_tokens_like(query, each) if features else None for each in (query, key, value)]
    gradients += [
        torch.empty_like(each, memory_format=torch.contiguous_format)
        if each is not None and wanted
        else None
        for each, wanted in zip((*tables, scale), (*[of_tables] * 3, features), strict=True)
    ]
    return _present(query, gradients)


def _save(ctx, inputs, output):
    *tensors, ctx.span, ctx.query_key = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx, grad_content, grad_position, _):
    saved = ctx.saved_tensors
    needed = ctx.needs_input_grad[:7]
    gradients = _backward(
        *saved[:7],
        ctx.span,
        ctx.query_key,
        *saved[7:],
        grad_content,
        grad_position,
        any((*needed[:3], needed[6])),
        any(needed[3:6]),
    )
    return (
        *(gradient if wanted else None for gradient, wanted in zip(gradients, needed, strict=True)),
        None,
        None,
    )


fused_axial_attention.register_autograd(_gradients, setup_context=_save)
