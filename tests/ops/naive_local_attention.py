"""2-D local attention and its logits' moments, written again from the equations, and slowly.

Nothing here comes from ``axial_d2``. :func:`attention_by_pixel` and :func:`moments_by_pixel` are
plain Python over numbers; :func:`attention_by_query` and :func:`moments_by_query` do the same
query by query in torch, so that autograd can go through them, and are themselves held against
the plain loops.

Shape letters: B images, N heads, H rows, W columns, K key channels, V value channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

FLOAT64 = torch.float64


class Inputs(NamedTuple):
    """query and key [B, N, H, W, K], value [B, N, H, W, V], tables [span, span, K or V]."""

    query: Tensor
    key: Tensor
    value: Tensor | None
    query_table: Tensor | None
    key_table: Tensor | None
    value_table: Tensor | None

    def to(self, dtype: torch.dtype) -> Inputs:
        return Inputs(*(None if tensor is None else tensor.to(dtype) for tensor in self))

    def leaves(self) -> Inputs:
        """Copies that require a gradient."""
        return Inputs(
            *(None if tensor is None else tensor.clone().requires_grad_() for tensor in self)
        )


def random_inputs(
    height: int,
    width: int,
    span: int = 7,
    *,
    images: int = 2,
    heads: int = 2,
    key_channels: int = 2,
    value_channels: int = 3,
) -> Inputs:
    features = images, heads, height, width
    shapes = [(*features, key_channels)] * 2 + [(*features, value_channels)]
    shapes += [(span, span, channels) for channels in (key_channels, key_channels, value_channels)]
    return Inputs(*(torch.randn(shape, dtype=FLOAT64) for shape in shapes))


def keys_of(y: int, x: int, height: int, width: int, span: int) -> Iterator[tuple[int, int]]:
    """Keys of the query at row y and column x: those in its window that exist."""
    half = (span - 1) // 2
    for row in range(y - half, y + half + 1):
        for column in range(x - half, x + half + 1):
            if row in range(height) and column in range(width):
                yield row, column


def _dot(a: list[float], b: list[float]) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True))


def _terms(
    lists: list[Any], query: tuple[int, int], key: tuple[int, int], b: int, n: int, query_key: bool
) -> list[float]:
    """q·k, q·r and k·r of one query and one key, 0 where absent."""
    queries, keys, _, query_table, key_table, _ = lists
    (y, x), (row, column) = query, key
    q, k = queries[b][n][y][x], keys[b][n][row][column]
    terms = [_dot(q, k) if query_key else 0.0]
    for features, table in ((q, query_table), (k, key_table)):
        terms.append(0.0 if table is None else _dot(features, _entry(table, query, key)))
    return terms


def _entry(table: Any, query: tuple[int, int], key: tuple[int, int]) -> Any:
    """Offset key - query, the middle entry being (0, 0)."""
    middle = (len(table) - 1) // 2
    return table[key[0] - query[0] + middle][key[1] - query[1] + middle]


def attention_by_pixel(
    inputs: Inputs, scale: Tensor | None = None, span: int = 7, query_key: bool = True
) -> list[Tensor | None]:
    """Content and position, [B, N, H, W, V] each or None, in Python floats."""
    images, heads, height, width, _ = inputs.query.shape
    lists = [None if tensor is None else tensor.tolist() for tensor in inputs]
    value, value_table = lists[2], lists[5]
    factors = scale.tolist() if scale is not None else [[1.0] * heads] * 3
    content, position = [], []
    for b, n, *query in itertools.product(*map(range, (images, heads, height, width))):
        keys = list(keys_of(*query, height, width, span))
        logits = [
            _dot([factors[t][n] for t in range(3)], _terms(lists, query, key, b, n, query_key))
            for key in keys
        ]
        exponentials = [math.exp(logit - max(logits)) for logit in logits]
        weights = [exponential / sum(exponentials) for exponential in exponentials]
        if value is not None:
            content.append(_mixture(weights, [value[b][n][y][x] for y, x in keys]))
        if value_table is not None:
            position.append(_mixture(weights, [_entry(value_table, query, key) for key in keys]))
    shape = images, heads, height, width, -1
    return [
        torch.tensor(rows, dtype=FLOAT64).view(shape) if rows else None
        for rows in (content, position)
    ]


def _mixture(weights: list[float], vectors: list[list[float]]) -> list[float]:
    return [_dot(weights, list(channel)) for channel in zip(*vectors, strict=True)]


def moments_by_pixel(
    inputs: Inputs, span: int = 7, query_key: bool = True
) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance [3, N] of the terms over (image, query, key), and their number."""
    images, heads, height, width, _ = inputs.query.shape
    lists = [None if tensor is None else tensor.tolist() for tensor in inputs]
    mean = torch.zeros(3, heads, dtype=FLOAT64)
    variance, count = torch.zeros_like(mean), 0
    for n in range(heads):
        samples = [
            _terms(lists, (y, x), key, b, n, query_key)
            for b, y, x in itertools.product(*map(range, (images, height, width)))
            for key in keys_of(y, x, height, width, span)
        ]
        count = len(samples)
        for term, values in enumerate(zip(*samples, strict=True)):
            average = math.fsum(values) / count
            mean[term, n] = average
            variance[term, n] = math.fsum((value - average) ** 2 for value in values) / count
    return mean, variance, count


class _Query(NamedTuple):
    """What one query sees: its keys' rows and columns, their table indices, the three terms."""

    keys: tuple[Tensor, Tensor]
    table: tuple[Tensor, Tensor]
    terms: Tensor


def _see(inputs: Inputs, b: int, n: int, y: int, x: int, span: int, query_key: bool) -> _Query:
    height, width = inputs.query.shape[2:4]
    rows, columns = torch.tensor(list(keys_of(y, x, height, width, span))).unbind(1)
    half = (span - 1) // 2
    table = rows - y + half, columns - x + half
    q, k = inputs.query[b, n, y, x], inputs.key[b, n, rows, columns]
    query_key_term = query_position = key_position = k.new_zeros(len(k))
    if query_key:
        query_key_term = k @ q
    if inputs.query_table is not None:
        query_position = inputs.query_table[table] @ q
    if inputs.key_table is not None:
        key_position = (k * inputs.key_table[table]).sum(1)
    terms = torch.stack([query_key_term, query_position, key_position])
    return _Query((rows, columns), table, terms)


def attention_by_query(
    inputs: Inputs, scale: Tensor | None = None, span: int = 7, query_key: bool = True
) -> list[Tensor | None]:
    """As :func:`attention_by_pixel`, differentiable."""
    images, heads, height, width, _ = inputs.query.shape
    content, position = [], []
    for b, n, y, x in itertools.product(*map(range, (images, heads, height, width))):
        seen = _see(inputs, b, n, y, x, span, query_key)
        terms = seen.terms if scale is None else scale[:, n, None] * seen.terms
        exponentials = terms.sum(0).exp()
        weights = exponentials / exponentials.sum()
        if inputs.value is not None:
            content.append(weights @ inputs.value[b, n, seen.keys[0], seen.keys[1]])
        if inputs.value_table is not None:
            position.append(weights @ inputs.value_table[seen.table])
    shape = images, heads, height, width, -1
    return [torch.stack(rows).view(shape) if rows else None for rows in (content, position)]


def moments_by_query(
    inputs: Inputs, span: int = 7, query_key: bool = True
) -> tuple[Tensor, Tensor]:
    """As :func:`moments_by_pixel`, differentiable."""
    images, heads, height, width, _ = inputs.query.shape
    mean, variance = [], []
    for n in range(heads):
        pixels = itertools.product(*map(range, (images, height, width)))
        terms = torch.cat(
            [_see(inputs, b, n, y, x, span, query_key).terms for b, y, x in pixels], dim=1
        )
        mean.append(terms.mean(1))
        variance.append(((terms - terms.mean(1, keepdim=True)) ** 2).mean(1))
    return torch.stack(mean, dim=1), torch.stack(variance, dim=1)
