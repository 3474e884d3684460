"""Attention in a window of an image, written as the papers write it.

This is the definition: every faster implementation is held against it by the tests. It copies
the keys and values of every window, span² times the feature map, and is therefore meant for
reading, testing and small images.

Shape letters: B images, N heads, H rows, W columns, K key channels a head, V value channels a
head, D = span * span offsets of a window, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from axial_d2.ops.axial_attention.reference import LogitMoments, pairs_in_window
from torch import Tensor


def windows(features: Tensor, span: int) -> Tensor:
    """What every query sees at every offset: [B, N, H, W, D, C], zeros beyond the image."""
    reach = span // 2
    padded = F.pad(features, (0, 0, reach, reach, reach, reach))
    return padded.unfold(2, span, 1).unfold(3, span, 1).flatten(-2).mT


def window_mask(height: int, width: int, span: int, device: torch.device | None = None) -> Tensor:
    """[H, W, D] bool, true where the window's key is in the image."""
    image = torch.ones(1, 1, height, width, 1, dtype=torch.bool, device=device)
    return windows(image, span)[0, 0, ..., 0]


def logit_terms(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None,
    key_table: Tensor | None,
    span: int,
    query_key: bool = True,
) -> Tensor:
    """The three terms of the logits, q·k, q·r and k·r, as [3, B, N, H, W, D]; zeros if absent."""
    keys = windows(key, span)
    content = query_position = key_position = keys.new_zeros(keys.shape[:-1])
    if query_key:
        content = torch.einsum("bnyxk,bnyxdk->bnyxd", query, keys)
    if query_table is not None:
        query_position = torch.einsum("bnyxk,dk->bnyxd", query, query_table.flatten(0, 1))
    if key_table is not None:
        key_position = torch.einsum("bnyxdk,dk->bnyxd", keys, key_table.flatten(0, 1))
    return torch.stack([content, query_position, key_position])


def logit_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    span: int = 7,
    query_key: bool = True,
) -> LogitMoments:
    """Mean and variance of each logit term over images, queries and the keys in their windows."""
    images, heads, height, width, _ = query.shape
    count = images * pairs_in_window(height, span) * pairs_in_window(width, span)
    if count == 0:
        return LogitMoments(query.new_zeros(3, heads), query.new_zeros(3, heads), count)
    inside = window_mask(height, width, span, query.device)
    terms = logit_terms(query, key, query_table, key_table, span, query_key)
    variance, mean = torch.var_mean(terms[..., inside], dim=(1, 3), correction=0)
    return LogitMoments(mean, variance, count)


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
    """See :func:`axial_d2.ops.local_attention`."""
    terms = logit_terms(query, key, query_table, key_table, span, query_key)
    if logit_scale is not None:
        terms = terms * logit_scale[:, None, :, None, None, None]
    inside = window_mask(query.shape[2], query.shape[3], span, query.device)
    weights = terms.sum(0).masked_fill(~inside, float("-inf")).softmax(dim=-1)
    content = position = None
    if value is not None:
        content = torch.einsum("bnyxd,bnyxdv->bnyxv", weights, windows(value, span))
    if value_table is not None:
        position = torch.einsum("bnyxd,dv->bnyxv", weights, value_table.flatten(0, 1))
    return content, position
