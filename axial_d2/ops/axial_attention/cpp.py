"""Attention along one axis in C++ kernels for CPUs (axial_d2/csrc).

Same results as :mod:`.reference`, with memory O(L) a row: one line's and head's logits live in a
core's cache, and the backward computes them again from query, key and the log-sum-exp. Inputs may
have any strides, so that nobody has to copy a transposed image; the results lie in memory in the
order of the value's dimensions. README.md in axial_d2/csrc derives the kernels.

Shape letters as in the reference; D = 2L - 1 offsets.
"""

from __future__ import annotations

import torch
from axial_d2.ops import cpp_library
from axial_d2.ops.axial_attention import blocked
from axial_d2.ops.axial_attention.blocks import table_window
from axial_d2.ops.axial_attention.reference import LogitMoments, pairs_in_window
from torch import Tensor

if cpp_library.obstacle() is None:
    from axial_d2.ops.axial_attention import cpp_operators

__all__ = ["axial_attention", "logit_moments"]


def obstacle(query: Tensor) -> str | None:
    """What keeps the kernels from these arguments of the op, in words; None if nothing does."""
    if query.device.type != "cpu":
        return f"it needs the CPU, and the tensors are on {query.device.type}"
    return cpp_library.obstacle()


def check(query: Tensor) -> None:
    """Raises ValueError where the kernels cannot be used; the message says why."""
    fault = obstacle(query)
    if fault is not None:
        raise ValueError(
            f'attention implementation "cpp" cannot be used: {fault}. '
            'Choose "auto", which uses it where it can be, or "blocked".'
        )


def axial_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    query_table: Tensor | None,
    key_table: Tensor | None,
    value_table: Tensor | None,
    logit_scale: Tensor | None = None,
    span: int = 0,
    query_key: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """See :func:`axial_d2.ops.axial_attention`; absent terms cost as much as present ones.

    Query, key and value are [A, B, N, L, C] or [B, N, L, C].

    Raises:
        ValueError: no kernels for this device or in this installation.
    """
    check(query)
    length = query.shape[-2]
    values, embeddings = blocked.values_and_table(value, value_table, query)
    scale = query.new_ones(3, query.shape[-3]) if logit_scale is None else logit_scale
    if not query_key:
        scale = torch.cat([torch.zeros_like(scale[:1]), scale[1:]])
    content, position = cpp_operators.attention(
        _five_dimensional(query),
        _five_dimensional(key),
        _five_dimensional(values),
        table_window(blocked.table_or_zeros(query_table, query), length),
        table_window(blocked.table_or_zeros(key_table, key), length),
        table_window(embeddings, length),
        scale,
        span,
    )
    return (
        None if value is None else content.view(values.shape),
        None if value_table is None else position.view(values.shape),
    )


def logit_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None,
    key_table: Tensor | None,
    span: int = 0,
    query_key: bool = True,
) -> LogitMoments:
    """See :func:`axial_d2.ops.logit_moments`."""
    check(query)
    heads, length, _ = query.shape[-3:]
    count = query.shape[:-3].numel() * pairs_in_window(length, span)
    if count == 0:
        return LogitMoments(query.new_zeros(3, heads), query.new_zeros(3, heads), count)
    mean, variance = cpp_operators.moments(
        _five_dimensional(query),
        _five_dimensional(key),
        table_window(blocked.table_or_zeros(query_table, query), length),
        table_window(blocked.table_or_zeros(key_table, key), length),
        span,
        count,
    )
    if not query_key:
        present = query.new_tensor([[0.0], [1.0], [1.0]])
        mean, variance = mean * present, variance * present
    return LogitMoments(mean, variance, count)


def _five_dimensional(features: Tensor) -> Tensor:
    return features.unsqueeze(0) if features.dim() == 4 else features
