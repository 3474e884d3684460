"""Moments of the logits without the logits: closed forms for the whole axis, blocks for a span.

Shape letters as in :mod:`.blocked`.
"""

from __future__ import annotations

import torch
from axial_d2.ops.axial_attention.blocks import (
    block_bytes,
    chunks_of,
    relative_embeddings,
    table_window,
)
from axial_d2.ops.axial_attention.reference import LogitMoments, pairs_in_window
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def logit_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None,
    key_table: Tensor | None,
    span: int = 0,
    query_key: bool = True,
) -> LogitMoments:
    """See :func:`axial_d2.ops.logit_moments`; no logit map is kept."""
    rows, heads, length, _ = query.shape
    count = rows * pairs_in_window(length, span)
    if rows == 0:
        return LogitMoments(query.new_zeros(3, heads), query.new_zeros(3, heads), count)
    if span and span < 2 * length - 1:
        mean, variance = _local_moments(query, key, query_table, key_table, span, query_key)
        return LogitMoments(mean, variance, count)
    absent = (query.new_zeros(heads), query.new_zeros(heads))
    content = query_position = key_position = absent
    if query_key:
        content = _content_moments(query, key)
    if query_table is not None:
        query_position = _position_moments(query, table_window(query_table, length))
    if key_table is not None:
        key_position = _position_moments(key, table_window(key_table, length).flip(0))
    means, variances = zip(content, query_position, key_position, strict=True)
    return LogitMoments(torch.stack(means), torch.stack(variances), count)


def _content_moments(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q·k over rows and pairs, [N] each."""
    length, channels = query.shape[2:]
    if channels > length:
        variance, mean = torch.var_mean(query @ key.mT, dim=(0, 2, 3), correction=0)
        return mean, variance
    # Within a row from the covariances, then between the rows' means: all of it centred, so
    # that float32 does not cancel.
    query_mean, key_mean = query.mean(2, keepdim=True), key.mean(2, keepdim=True)  # [B, N, 1, K]
    query_covariance = query.mT @ query / length - query_mean.mT @ query_mean
    key_covariance = key.mT @ key / length - key_mean.mT @ key_mean
    within = (
        query_covariance * key_covariance
        + query_mean * query_mean.mT * key_covariance
        + key_mean * key_mean.mT * query_covariance
    ).sum((2, 3))
    between, mean = torch.var_mean((query_mean * key_mean).sum((2, 3)), dim=0, correction=0)
    return mean, within.mean(0) + between


def _position_moments(features: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_i·r_{j-i} over rows and pairs, [N] each.

    Args:
        features: x, [B, N, L, K].
        window: table rows of the offsets -(L - 1) … L - 1, [D, K].
    """
    rows, _, length, channels = features.shape
    neighbours = relative_embeddings(window)
    center = features.mean(0)  # [N, L, K]
    between, mean = torch.var_mean(center.transpose(0, 1) @ neighbours, dim=(0, 2), correction=0)
    deviations = (features - center).permute(1, 2, 3, 0)  # [N, L, K, B]
    if channels <= max(length, rows):
        gram = deviations @ deviations.mT
        squares = torch.einsum("nikl,ikl->n", gram, neighbours @ neighbours.mT)
    else:
        squares = (deviations.mT @ neighbours).square().sum((1, 2, 3))
    return mean, squares / (rows * length * length) + between


def _local_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None,
    key_table: Tensor | None,
    span: int,
    query_key: bool,
) -> tuple[Tensor, Tensor]:
    """Moments inside a window, in blocks of rows whose logits are recomputed in the backward."""
    rows, heads, length, _ = query.shape
    query_relative = key_relative = None
    if query_table is not None:
        query_relative = relative_embeddings(table_window(query_table, length))
    if key_table is not None:
        key_relative = relative_embeddings(table_window(key_table, length).flip(0))
    moments, counts = [], []
    for chunk in chunks_of(length, span):
        outside = chunk.outside(span, query.device)
        assert outside is not None
        inside, queries, keys = ~outside, chunk.queries, chunk.keys
        terms_bytes = 3 * heads * outside.numel() * query.element_size()
        block = max(1, block_bytes(query) // terms_bytes)
        for start in range(0, rows, block):
            part = slice(start, start + block)
            moments.append(
                checkpoint(
                    _chunk_moments,
                    query[part, :, queries],
                    key[part, :, keys],
                    None if query_relative is None else query_relative[queries, :, keys],
                    None if key_relative is None else key_relative[keys, :, queries],
                    inside,
                    query_key,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            )
            counts.append(len(query[part]) * chunk.pairs(span))
    variances, means = (torch.stack(each) for each in zip(*moments, strict=True))
    shares = query.new_tensor(counts)[:, None, None] / sum(counts)
    mean = (means * shares).sum(0)
    return mean, ((variances + (means - mean).square()) * shares).sum(0)


def _chunk_moments(
    query: Tensor,
    key: Tensor,
    query_relative: Tensor | None,
    key_relative: Tensor | None,
    inside: Tensor,
    query_key: bool,
) -> tuple[Tensor, Tensor]:
    """Variance and mean of the three terms, [3, N] each.

    Args:
        query: [B, N, Q, K].
        key: [B, N, W, K].
        query_relative: [Q, K, W].
        key_relative: [W, K, Q].
        inside: [Q, W] bool, which pairs count.
    """
    absent = query.new_zeros(*query.shape[:3], key.shape[2])
    content = query @ key.mT if query_key else absent
    query_position = key_position = absent
    if query_relative is not None:
        query_position = torch.einsum("bnqk,qkw->bnqw", query, query_relative)
    if key_relative is not None:
        key_position = torch.einsum("bnwk,wkq->bnqw", key, key_relative)
    terms = torch.stack([content, query_position, key_position])[..., inside]
    return torch.var_mean(terms, dim=(1, 3), correction=0)
