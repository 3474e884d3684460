"""Position-sensitive attention along one axis, written as the paper writes it (eq. 3 and 4).

This is the definition: every faster implementation is held against it by the tests. It keeps
whole [L, L] logit maps and is therefore meant for reading, testing and short axes.

Shape letters: B rows (all lines of all images), N heads, L positions on the axis, K key
channels a head, V value channels a head, R = 2 * max_span - 1 rows of a position table.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LogitMoments(NamedTuple):
    """First two moments of each logit term over a batch, for its batch normalisation.

    Attributes:
        mean: [3, N], in the order q·k, q·r, k·r.
        variance: [3, N], biased (divided by ``count``).
        count: number of (row, query, key) triples inside the span, the same for every entry.
    """

    mean: Tensor
    variance: Tensor
    count: int  # type: ignore[assignment]


def relative_offsets(length: int, device: torch.device | None = None) -> Tensor:
    """Offsets key - query, [L, L] int64 (rows are queries, columns are keys)."""
    positions = torch.arange(length, device=device)
    return positions[None, :] - positions[:, None]


def relative_embeddings(table: Tensor, length: int) -> Tensor:
    """The table's row for every pair of positions.

    Row ``(R - 1) / 2`` is offset 0. Offsets beyond the table share its last row on that side.

    Args:
        table: [R, C].
        length: L.

    Returns:
        [L, L, C], indexed by (query, key).
    """
    limit = (table.shape[0] - 1) // 2
    return table[relative_offsets(length, table.device).clamp(-limit, limit) + limit]


def span_mask(length: int, span: int, device: torch.device | None = None) -> Tensor:
    """[L, L] bool, true where the key lies in the query's window (all of it for span 0)."""
    offsets = relative_offsets(length, device)
    return offsets.abs() <= (span // 2 if span else length)


def pairs_in_window(length: int, span: int) -> int:
    """Number of (query, key) pairs that :func:`span_mask` lets through."""
    reach = min(span // 2, length - 1) if span else length - 1
    return length * (2 * reach + 1) - reach * (reach + 1)


def logit_terms(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None,
    key_table: Tensor | None,
    query_key: bool = True,
) -> Tensor:
    """The three terms of the logits, q·k, q·r and k·r, as [3, B, N, L, L]; absent ones are 0."""
    length = query.shape[2]
    absent = query.new_zeros(*query.shape[:3], length)
    content = query_position = key_position = absent
    if query_key:
        content = torch.einsum("bnik,bnjk->bnij", query, key)
    if query_table is not None:
        embeddings = relative_embeddings(query_table, length)
        query_position = torch.einsum("bnik,ijk->bnij", query, embeddings)
    if key_table is not None:
        embeddings = relative_embeddings(key_table, length)
        key_position = torch.einsum("bnjk,ijk->bnij", key, embeddings)
    return torch.stack([content, query_position, key_position])


def logit_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None,
    key_table: Tensor | None,
    span: int = 0,
    query_key: bool = True,
) -> LogitMoments:
    """Mean and variance of each logit term over rows, queries and the keys in their windows."""
    length = query.shape[2]
    inside = span_mask(length, span, query.device)
    terms = logit_terms(query, key, query_table, key_table, query_key)[..., inside]
    variance, mean = torch.var_mean(terms, dim=(1, 3), correction=0)  # of [3, B, N, pairs]
    return LogitMoments(mean, variance, query.shape[0] * pairs_in_window(length, span))


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
    """See :func:`axial_d2.ops.axial_attention`."""
    length = query.shape[2]
    terms = logit_terms(query, key, query_table, key_table, query_key)
    if logit_scale is not None:
        terms = terms * logit_scale[:, None, :, None, None]
    logits = terms.sum(0).masked_fill(~span_mask(length, span, query.device), float("-inf"))
    weights = logits.softmax(dim=-1)
    content = position = None
    if value is not None:
        content = torch.einsum("bnij,bnjv->bniv", weights, value)
    if value_table is not None:
        embeddings = relative_embeddings(value_table, length)
        position = torch.einsum("bnij,ijv->bniv", weights, embeddings)
    return content, position
