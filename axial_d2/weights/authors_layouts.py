"""How the authors' PyTorch code stores an attention layer, and how we do; each with its inverse.

N heads of D values and D/2 queries and keys each; L positions. We store query | key | value with
the heads outermost in each, tables by offset key - query, one row an offset, and batch norms of
content and position one after the other.
"""

from __future__ import annotations

import torch
from axial_d2.weights.transfer import resize_table
from torch import Tensor


def unpack_heads(packed: Tensor, num_heads: int) -> Tensor:
    """[N·2D, …], [query | key | value] of one head after the other → query | key | value."""
    heads = packed.unflatten(0, (num_heads, -1))  # [N, 2D, …]
    quarter = heads.shape[1] // 4
    query, key, value = heads.split([quarter, quarter, 2 * quarter], dim=1)
    return torch.cat([query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)])


def pack_heads(qkv: Tensor, num_heads: int) -> Tensor:
    """Inverse of :func:`unpack_heads`."""
    quarter = qkv.shape[0] // 4
    parts = qkv.split([quarter, quarter, 2 * quarter])
    return torch.cat([part.unflatten(0, (num_heads, -1)) for part in parts], dim=1).flatten(0, 1)


def with_spatial_axes(weight: Tensor) -> Tensor:
    """Of a convolution on lines, [C, C, 1], to one on images, [C, C, 1, 1]."""
    return weight.unsqueeze(-1)


def without_spatial_axis(weight: Tensor) -> Tensor:
    """Inverse of :func:`with_spatial_axes`."""
    return weight.squeeze(-1)


def unpack_qkv(weight: Tensor, num_heads: int) -> Tensor:
    """[N·2D, C, 1] packed by head → [N·2D, C, 1, 1] query | key | value."""
    return with_spatial_axes(unpack_heads(weight, num_heads))


def pack_qkv(weight: Tensor, num_heads: int) -> Tensor:
    """Inverse of :func:`unpack_qkv`."""
    return pack_heads(without_spatial_axis(weight), num_heads)


def separate(interleaved: Tensor) -> Tensor:
    """[content 0, position 0, content 1, …] → [content 0, content 1, …, position 0, …]."""
    return torch.cat([interleaved[0::2], interleaved[1::2]])


def interleave(separated: Tensor) -> Tensor:
    """Inverse of :func:`separate`."""
    return torch.stack(separated.chunk(2), dim=1).flatten()


def query_table(relative: Tensor) -> Tensor:
    """From all tables [2D, 2L - 1]; their queries are indexed by query - key."""
    return relative[: relative.shape[0] // 4].T.flip(0)


def key_table(relative: Tensor) -> Tensor:
    """From all tables [2D, 2L - 1]; their keys are indexed by key - query."""
    quarter = relative.shape[0] // 4
    return relative[quarter : 2 * quarter].T


def value_table(relative: Tensor) -> Tensor:
    """From all tables [2D, 2L - 1]; their values are indexed by query - key."""
    return relative[relative.shape[0] // 2 :].T.flip(0)


def join_tables(query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
    """Inverse of the three above, for axes of ``length`` positions; [2D, 2·length - 1]."""
    query, key, value = (resize_table(t, 2 * length - 1) for t in (query, key, value))
    return torch.cat([query.flip(0).T, key.T, value.flip(0).T])


def flatten_index(table: Tensor, length: int) -> Tensor:
    """Columns of the tables for each pair of positions, first minus second; [length²], int64."""
    positions = torch.arange(length, device=table.device)
    return (positions[:, None] - positions[None, :] + length - 1).flatten()
