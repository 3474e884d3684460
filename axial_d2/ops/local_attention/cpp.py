"""Attention in a window in C++ kernels for CPUs (axial_d2/csrc).

Same results as :mod:`.reference`. Images lie row behind row, as in :mod:`.blocked`, a plane a
channel, so that the keys at one offset of neighbouring queries are one vector; the logits of a few
queries live in a core's cache, and the backward computes them again. Absent terms cost nothing.
"""

from __future__ import annotations

from axial_d2.ops import cpp_library
from axial_d2.ops.axial_attention.cpp import check
from axial_d2.ops.axial_attention.reference import LogitMoments, pairs_in_window
from axial_d2.ops.local_attention.shifts import Grid
from torch import Tensor

if cpp_library.obstacle() is None:
    from axial_d2.ops.local_attention import cpp_operators

__all__ = ["local_attention", "logit_moments"]


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
    """See :func:`axial_d2.ops.local_attention`.

    Raises:
        ValueError: no kernels for this device or in this installation.
    """
    check(query)
    grid = _grid(query, span)
    scale = query.new_ones(3, query.shape[1]) if logit_scale is None else logit_scale
    content, position = cpp_operators.attention(
        query,
        key,
        value,
        _table(grid, query_table),
        _table(grid, key_table),
        _table(grid, value_table),
        scale,
        grid.row_reach,
        grid.column_reach,
        query_key,
    )
    return None if value is None else content, None if value_table is None else position


def logit_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    span: int = 7,
    query_key: bool = True,
) -> LogitMoments:
    """See :func:`axial_d2.ops.local_logit_moments`."""
    check(query)
    images, heads, height, width, _ = query.shape
    count = images * pairs_in_window(height, span) * pairs_in_window(width, span)
    if count == 0:
        return LogitMoments(query.new_zeros(3, heads), query.new_zeros(3, heads), count)
    grid = _grid(query, span)
    sums = cpp_operators.moments(
        query,
        key,
        _table(grid, query_table),
        _table(grid, key_table),
        grid.row_reach,
        grid.column_reach,
        query_key,
    )
    mean, squares = (sums / count).unbind(0)
    variance = (squares - mean.square()).clamp(min=0)
    return LogitMoments(mean.to(query.dtype), variance.to(query.dtype), count)


def _grid(features: Tensor, span: int) -> Grid:
    return Grid.of(features.movedim(-1, 2), span)


def _table(grid: Grid, table: Tensor | None) -> Tensor | None:
    return None if table is None else grid.table(table)
