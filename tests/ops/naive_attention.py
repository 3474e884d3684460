"""Equation 4 and its batch norms' moments, written again and as slowly as the paper reads.

Nothing here comes from ``axial_d2``. :func:`attention_by_triple_loop` and
:func:`moments_by_triple_loop` are plain Python over numbers; :func:`attention_by_query` and
:func:`moments_by_query` do the same query by query in torch, so that autograd can go through them,
and are themselves held against the plain loops.

Shape letters: B rows, N heads, L positions, K key channels, V value channels, R table rows.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

FLOAT64 = torch.float64


class Inputs(NamedTuple):
    """query and key [B, N, L, K], value [B, N, L, V], tables [R, K], [R, K] and [R, V]."""

    query: Tensor
    key: Tensor
    value: Tensor
    query_table: Tensor
    key_table: Tensor
    value_table: Tensor


def random_inputs(
    length: int,
    *,
    rows: int = 2,
    heads: int = 2,
    key_channels: int = 2,
    value_channels: int = 3,
    max_span: int = 255,
    dtype: torch.dtype = FLOAT64,
) -> Inputs:
    table = 2 * max_span - 1
    shapes = [(rows, heads, length, channels) for channels in (key_channels,) * 2]
    shapes += [(rows, heads, length, value_channels)]
    shapes += [(table, channels) for channels in (key_channels, key_channels, value_channels)]
    return Inputs(*(torch.randn(shape, dtype=FLOAT64).to(dtype) for shape in shapes))


def window(query_index: int, length: int, span: int) -> list[int]:
    """Keys of a query: all of them, or those at most (span - 1) / 2 away that exist."""
    half = (span - 1) // 2 if span else length
    return [j for j in range(length) if abs(j - query_index) <= half]


def table_row(query_index: int, key_index: int, num_rows: int) -> int:
    """Offset key - query, the middle row being 0; the ends stand for all that lies beyond."""
    middle = (num_rows - 1) // 2
    return min(max(key_index - query_index + middle, 0), num_rows - 1)


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _terms(inputs: list, b: int, n: int, i: int, j: int) -> tuple[float, float, float]:
    """q·k, q·r and k·r of one query and one key."""
    query, key, _, query_table, key_table, _ = inputs
    q, k = query[b][n][i], key[b][n][j]
    row = table_row(i, j, len(query_table))
    return _dot(q, k), _dot(q, query_table[row]), _dot(k, key_table[row])


def attention_by_triple_loop(
    inputs: Inputs, scale: Tensor | None = None, span: int = 0
) -> tuple[Tensor, Tensor]:
    """Content and position, [B, N, L, V] each, in Python floats."""
    rows, heads, length, channels = inputs.value.shape
    lists = [tensor.tolist() for tensor in inputs]
    factors = scale.tolist() if scale is not None else [[1.0] * heads] * 3
    value, value_table = lists[2], lists[5]
    content = torch.zeros(rows, heads, length, channels, dtype=FLOAT64)
    position = torch.zeros_like(content)
    for b, n, i in itertools.product(range(rows), range(heads), range(length)):
        keys = window(i, length, span)
        logits = []
        for j in keys:
            terms = _terms(lists, b, n, i, j)
            logits.append(sum(factors[t][n] * terms[t] for t in range(3)))
        largest = max(logits)
        exponentials = [math.exp(logit - largest) for logit in logits]
        total = sum(exponentials)
        from_values, from_table = [0.0] * channels, [0.0] * channels
        for j, exponential in zip(keys, exponentials, strict=True):
            weight = exponential / total
            row = table_row(i, j, len(value_table))
            for c in range(channels):
                from_values[c] += weight * value[b][n][j][c]
                from_table[c] += weight * value_table[row][c]
        content[b, n, i] = torch.tensor(from_values, dtype=FLOAT64)
        position[b, n, i] = torch.tensor(from_table, dtype=FLOAT64)
    return content, position


def moments_by_triple_loop(inputs: Inputs, span: int = 0) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance [3, N] of the terms over (row, query, key), and their number."""
    rows, heads, length, _ = inputs.query.shape
    lists = [tensor.tolist() for tensor in inputs]
    mean = torch.zeros(3, heads, dtype=FLOAT64)
    variance, count = torch.zeros_like(mean), 0
    for n in range(heads):
        samples = [
            _terms(lists, b, n, i, j)
            for b, i in itertools.product(range(rows), range(length))
            for j in window(i, length, span)
        ]
        count = len(samples)
        for term in range(3):
            values = [sample[term] for sample in samples]
            average = math.fsum(values) / count
            mean[term, n] = average
            variance[term, n] = math.fsum((value - average) ** 2 for value in values) / count
    return mean, variance, count


def _query_terms(inputs: Inputs, b: int, n: int, i: int, span: int) -> tuple[list, list, Tensor]:
    """Keys of query i, their table rows, and the three terms [3, keys]."""
    keys = window(i, inputs.query.shape[2], span)
    table = [table_row(i, j, inputs.query_table.shape[0]) for j in keys]
    q, k = inputs.query[b, n, i], inputs.key[b, n, keys]
    terms = [k @ q, inputs.query_table[table] @ q, (k * inputs.key_table[table]).sum(1)]
    return keys, table, torch.stack(terms)


def attention_by_query(
    inputs: Inputs, scale: Tensor | None = None, span: int = 0
) -> tuple[Tensor, Tensor]:
    """As :func:`attention_by_triple_loop`, differentiable."""
    rows, heads, length, _ = inputs.query.shape
    content, position = [], []
    for b, n, i in itertools.product(range(rows), range(heads), range(length)):
        keys, table, terms = _query_terms(inputs, b, n, i, span)
        if scale is not None:
            terms = scale[:, n, None] * terms
        exponentials = terms.sum(0).exp()
        weights = exponentials / exponentials.sum()
        content.append(weights @ inputs.value[b, n, keys])
        position.append(weights @ inputs.value_table[table])
    shape = inputs.value.shape
    return torch.stack(content).view(shape), torch.stack(position).view(shape)


def moments_by_query(inputs: Inputs, span: int = 0) -> tuple[Tensor, Tensor]:
    """As :func:`moments_by_triple_loop`, differentiable."""
    rows, heads, length, _ = inputs.query.shape
    mean, variance = [], []
    for n in range(heads):
        pairs = itertools.product(range(rows), range(length))
        terms = torch.cat([_query_terms(inputs, b, n, i, span)[2] for b, i in pairs], dim=1)
        mean.append(terms.mean(1))
        variance.append(((terms - terms.mean(1, keepdim=True)) ** 2).mean(1))
    return torch.stack(mean, dim=1), torch.stack(variance, dim=1)
