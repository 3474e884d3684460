"""Operators that stand in for attention and convolutions while a model is counted.

They compute nothing. Each leaves one node with its shapes and options in the trace, so that the
cost of attention comes from its formula (:mod:`.products`), not from what an implementation does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from axial_d2.ops.axial_attention import IMPLEMENTATIONS as AXIAL_IMPLEMENTATIONS
from axial_d2.ops.block_attention import IMPLEMENTATIONS as BLOCK_IMPLEMENTATIONS
from axial_d2.ops.local_attention import IMPLEMENTATIONS as LOCAL_IMPLEMENTATIONS
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Tables of attention implementations: whichever is asked for, the counted one answers.
IMPLEMENTATION_TABLES: tuple[dict[str, Any], ...] = (AXIAL_IMPLEMENTATIONS, LOCAL_IMPLEMENTATIONS)

TRANSPOSED_CONVOLUTIONS = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d, *TRANSPOSED_CONVOLUTIONS)

_library = torch.library.Library("axial_d2", "FRAGMENT")
_library.define(
    "counted_attention(Tensor query, Tensor key, Tensor? value, Tensor? query_table, "
    "Tensor? key_table, Tensor? value_table, int span, bool query_key) -> (Tensor, Tensor)"
)
_library.define(
    "counted_convolution(Tensor input, Tensor weight, int[] output_shape, bool transposed) "
    "-> Tensor"
)


@torch.library.impl(_library, "counted_attention", "CompositeExplicitAutograd")
def _attention_shapes(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    query_table: Tensor | None,
    key_table: Tensor | None,
    value_table: Tensor | None,
    span: int,
    query_key: bool,
) -> tuple[Tensor, Tensor]:
    """Content and position, zeros of [B, N, …, V] or, where left out, of no element."""
    shape = query.shape[:-1]
    content, position = (
        query.new_zeros(0) if source is None else query.new_zeros(*shape, source.shape[-1])
        for source in (value, value_table)
    )
    return content, position


@torch.library.impl(_library, "counted_convolution", "CompositeExplicitAutograd")
def _convolution_shape(
    input: Tensor, weight: Tensor, output_shape: Sequence[int], transposed: bool
) -> Tensor:
    return input.new_empty(output_shape)


def counted_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    query_table: Tensor | None,
    key_table: Tensor | None,
    value_table: Tensor | None,
    logit_scale: Tensor | None = None,
    span: int = 0,
    query_key: bool = True,
    position_scale: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """An implementation of :func:`axial_d2.ops.axial_attention` and of its 2-D local sibling."""
    content, position = torch.ops.axial_d2.counted_attention(
        query, key, value, query_table, key_table, value_table, span, query_key
    )
    if position_scale is not None:  # both in one; the sum is no product
        return content, None
    return None if value is None else content, None if value_table is None else position


@contextlib.contextmanager
def opaque_attention() -> Iterator[None]:
    """Within it, every call of an attention op of this package leaves one node in a trace.

    Attention in blocks is its definition there, in operators that are counted as they are.
    """
    counted = SimpleNamespace(axial_attention=counted_attention, local_attention=counted_attention)
    with contextlib.ExitStack() as stack:
        for table in IMPLEMENTATION_TABLES:
            stack.enter_context(mock.patch.dict(table, dict.fromkeys(table, counted)))
        definition = dict.fromkeys(BLOCK_IMPLEMENTATIONS, BLOCK_IMPLEMENTATIONS["reference"])
        stack.enter_context(mock.patch.dict(BLOCK_IMPLEMENTATIONS, definition))
        yield


class TraceableConvolutions(TorchFunctionMode):
    """Lets ``torch.jit.trace`` see convolutions on the meta device.

    There they reach no operator that the tracer records, and the tracer's symbolic shapes upset
    the meta device's arithmetic. So the shape is found untraced, and an operator of our own
    leaves the node.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in CONVOLUTIONS:
            return func(*args, **kwargs)
        with _untraced():
            output_shape = list(func(*args, **kwargs).shape)
        return torch.ops.axial_d2.counted_convolution(
            *_operands(*args, **kwargs), output_shape, func in TRANSPOSED_CONVOLUTIONS
        )


def _operands(input: Tensor, weight: Tensor, *options: Any, **named_options: Any):
    return input, weight


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    tracing: Any = torch._C
    state = tracing._get_tracing_state()
    tracing._set_tracing_state(None)
    try:
        yield
    finally:
        tracing._set_tracing_state(state)
