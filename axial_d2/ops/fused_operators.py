"""Fused kernels as operators of PyTorch, with their shapes and their gradients.

They are opaque to ``torch.compile``, which needs only the shapes: block shapes and numbers of
programs are plain Python, and Triton's interpreter takes the same path on a CPU.

Shape letters: B rows or images, N heads, *P positions along one axis or two, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ARGUMENTS = (
    "Tensor query, Tensor key, Tensor? value, Tensor? query_table, Tensor? key_table, "
    "Tensor? value_table, Tensor? logit_scale, int span, bool query_key"
)
# The seven tensors, the span, and whether there is q·k.
ARGUMENTS = 9


class Saved(NamedTuple):
    """What the forward keeps beside its inputs."""

    content: Tensor | None
    position: Tensor | None
    log_sum: Tensor


class Gradients(NamedTuple):
    """Of the inputs of the same name; None where not wanted or the input is absent."""

    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    query_table: Tensor | None = None
    key_table: Tensor | None = None
    value_table: Tensor | None = None
    logit_scale: Tensor | None = None


Pair = tuple[Tensor | None, Tensor | None]


def empty_tokens(like: Tensor, channels: int) -> Tensor:
    """[B, N, *P, channels] whose memory is [B, *P, N, channels], as layers want it."""
    rows, heads, *positions, _ = like.shape
    return like.new_empty(rows, *positions, heads, channels).movedim(-2, 1)


def empty_statistic(like: Tensor) -> Tensor:
    """[B, *P, N] in float32, one number for each query."""
    rows, heads, *positions, _ = like.shape
    return like.new_empty(rows, *positions, heads, dtype=torch.float32)


def tokens(tensor: Tensor) -> Tensor:
    """[B, N, *P, C] with the memory of :func:`empty_tokens`; a copy only if it must be."""
    return tensor.movedim(1, -2).contiguous().movedim(-2, 1)


def tokens_where(sources: Pair, tensors: Pair) -> Pair:
    """Content and position as :func:`tokens`; None where their source, a value, is."""
    content, position = (
        None if source is None or tensor is None else tokens(tensor)
        for source, tensor in zip(sources, tensors, strict=True)
    )
    return content, position


def zero_gradients(tensors: Sequence[Tensor | None]) -> Gradients:
    return Gradients(*(None if each is None else torch.zeros_like(each) for each in tensors))


def fused_operator(
    name: str,
    forward: Callable[..., tuple[Tensor | None, Tensor | None, Tensor]],
    backward: Callable[..., Gradients],
) -> Any:
    """Registers the operators ``axial_d2::name`` and ``axial_d2::name_backward``.

    Args:
        name: of the operator, without its namespace.
        forward: from the :data:`ARGUMENTS` arguments of an attention, in their order, to content,
            position (None where absent) and the log-sum-exp as :func:`empty_statistic`.
        backward: from these arguments as one tuple, :class:`Saved`, the gradients of content and
            position, whether those of features and scale, and those of tables are wanted.

    Returns:
        The operator: content, position and log-sum-exp, tensors without elements being absent.
    """

    @torch.library.custom_op(
        f"axial_d2::{name}",
        mutates_args=(),
        schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
    )
    def operator(*arguments):
        content, position, log_sum = _present(arguments[0], forward(*arguments))
        return content, position, log_sum

    @torch.library.custom_op(
        f"axial_d2::{name}_backward",
        mutates_args=(),
        schema=(
            f"({_ARGUMENTS}, Tensor content, Tensor position, Tensor log_sum, "
            "Tensor grad_content, Tensor grad_position, bool features, bool tables) -> Tensor[]"
        ),
    )
    def operator_backward(*arguments):
        given, others = arguments[:ARGUMENTS], arguments[ARGUMENTS:]
        return _present(given[0], backward(given, Saved(*others[:3]), others[3:5], *others[5:]))

    def gradients(ctx, grad_content, grad_position, _):
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[:7]
        found = operator_backward(
            *saved[:7],
            ctx.span,
            ctx.query_key,
            *saved[7:],
            grad_content,
            grad_position,
            any((*needed[:3], needed[6])),
            any(needed[3:6]),
        )
        wanted = (each if want else None for each, want in zip(found, needed, strict=True))
        return (*wanted, None, None)

    operator.register_fake(_fake_results)
    operator_backward.register_fake(_fake_gradients)
    operator.register_autograd(gradients, setup_context=_save)
    return operator


def _present(like: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """Operators return tensors; one without elements stands for what is absent."""
    return [like.new_empty(0) if tensor is None else tensor for tensor in tensors]


def _tokens_like(query: Tensor, source: Tensor | None) -> Tensor | None:
    """Shape and strides of what the kernels return for queries of the channels of ``source``."""
    return None if source is None else empty_tokens(query, source.shape[-1])


def _fake_results(query, key, value, query_table, key_table, value_table, *others):
    retrieved = [_tokens_like(query, source) for source in (value, value_table)]
    return (*_present(query, retrieved), empty_statistic(query))


def _fake_gradients(query, key, value, *others):
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
