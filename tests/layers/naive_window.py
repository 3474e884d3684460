"""Attention over any neighbourhood of an image, pair by pair, from the papers' equations.

Of ``axial_d2`` it sees nothing but the names and values of the parameters. An image is its list
of pixels in reading order; attention is a list of (query pixel, key pixel) pairs, and every term
a number for each pair. Shape letters: B images, P pixels, M pairs, N heads, C channels a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Size = tuple[int, int]
KINDS = ("height", "width", "window")


@dataclass(frozen=True)
class Pairs:
    """Queries and keys as pixels [M], and the keys' offsets in rows and columns."""

    query: list[int]
    key: list[int]
    offset: list[tuple[int, int]]


def pairs(size: Size, span: int, kind: str) -> Pairs:
    """Keys at most ``span // 2`` away: in the column, in the row, or in the square window."""
    height, width = size
    half = span // 2 if span else max(size)
    reach = {"height": (half, 0), "width": (0, half), "window": (half, half)}[kind]
    pixels = [(y, x) for y in range(height) for x in range(width)]
    found = [
        (i, j, (there[0] - here[0], there[1] - here[1]))
        for i, here in enumerate(pixels)
        for j, there in enumerate(pixels)
        if abs(there[0] - here[0]) <= reach[0] and abs(there[1] - here[1]) <= reach[1]
    ]
    return Pairs(*(list(column) for column in zip(*found, strict=True)))


def relative(state: State, name: str, kind: str, found: Pairs) -> Tensor | None:
    """The embedding of every pair's offset, [M, C]; None without its parameters."""
    if kind == "window":
        if f"{name}_window.row_table" not in state:
            return None
        rows, columns = (state[f"{name}_window.{part}_table"] for part in ("row", "column"))
        middle = len(rows) // 2
        return torch.stack(
            [torch.cat([rows[middle + dy], columns[middle + dx]]) for dy, dx in found.offset]
        )
    if f"{name}_table" not in state:
        return None
    table = state[f"{name}_table"]
    last = len(table) - 1
    along = [dy + dx for dy, dx in found.offset]  # one of them is 0
    return torch.stack([table[min(max(d + last // 2, 0), last)] for d in along])


def project(x: Tensor, weight: Tensor) -> Tensor:
    """[B, C, H, W] → pixels, [B, P, channels]."""
    return torch.einsum("bchw,dc->bhwd", x, weight[:, :, 0, 0]).flatten(1, 2)


def heads(pixels: Tensor, num_heads: int) -> Tensor:
    """[B, P, N·C] → [B, P, N, C]; a head's channels lie together."""
    return torch.stack(pixels.chunk(num_heads, dim=2), dim=2)


def softmax_by_query(logits: Tensor, found: Pairs, num_pixels: int) -> Tensor:
    """Softmax of [B, M, N] over the pairs of each query."""
    query = torch.tensor(found.query)
    exponentials = (logits - logits.detach().max()).exp()
    totals = logits.new_zeros(len(logits), num_pixels, logits.shape[2])
    return exponentials / totals.index_add(1, query, exponentials)[:, query]


def weighted_sum(weights: Tensor, summands: Tensor, found: Pairs, num_pixels: int) -> Tensor:
    """Weights [B, M, N] and summands [B or 1, M, N or 1, C] → [B, P, N·C]."""
    parts = weights[..., None] * summands
    total = parts.new_zeros(len(parts), num_pixels, *parts.shape[2:])
    return total.index_add(1, torch.tensor(found.query), parts).flatten(2)


def image(pixels: Tensor, size: Size) -> Tensor:
    """[B, P, channels] → [B, channels, H, W]."""
    return pixels.mT.unflatten(2, size)


def batch_norm(state: State, training: bool) -> Callable[[Tensor, str], Tensor]:
    """A function of (values [samples, channels], name); it updates the running statistics."""

    def apply(values: Tensor, name: str) -> Tensor:
        running = (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        if training:
            state[f"{name}.num_batches_tracked"] += 1
        affine = (state[f"{name}.weight"], state[f"{name}.bias"])
        return F.batch_norm(values, *running, *affine, training, momentum=0.1, eps=1e-5)

    return apply


def naive_position_sensitive(
    x: Tensor,
    state: State,
    *,
    kind: str,
    num_heads: int,
    key_channels: int,
    value_channels: int,
    span: int,
    query_key: bool,
    value_content: bool,
    training: bool,
) -> Tensor:
    """Axial-DeepLab's eq. 3 with whatever terms exist; tables exist where ``state`` has them."""
    size = (x.shape[2], x.shape[3])
    num_pixels = size[0] * size[1]
    found = pairs(size, span, kind)
    normalise = batch_norm(state, training)
    r_query, r_key, r_value = (
        relative(state, name, kind, found) for name in ("query", "key", "value")
    )
    reads_query, reads_key = query_key or r_query is not None, query_key or r_key is not None

    projected = project(x, state["qkv.weight"])
    projected = normalise(projected.flatten(0, 1), "qkv.norm").view_as(projected)
    sizes = [key_channels * reads_query, key_channels * reads_key, value_channels * value_content]
    query, key, value = (heads(part, num_heads) for part in projected.split(sizes, dim=2))

    terms = []  # [B, M, N] each
    if query_key:
        terms.append((query[:, found.query] * key[:, found.key]).sum(3))
    if r_query is not None:
        terms.append((query[:, found.query] * r_query[:, None]).sum(3))
    if r_key is not None:
        terms.append((key[:, found.key] * r_key[:, None]).sum(3))
    logits = torch.cat(terms, dim=2)
    normalised = normalise(logits.flatten(0, 1), "logit_norm").view_as(logits)
    summed = sum(normalised.split(num_heads, dim=2))
    weights = softmax_by_query(summed, found, num_pixels)

    retrieved = []
    if value_content:
        retrieved.append(weighted_sum(weights, value[:, found.key], found, num_pixels))
    if r_value is not None:
        retrieved.append(weighted_sum(weights, r_value[None, :, None], found, num_pixels))
    pixels = torch.cat(retrieved, dim=2)
    normalised = normalise(pixels.flatten(0, 1), "retrieved_norm").view_as(pixels)
    return image(sum(normalised.split(value_channels, dim=2)), size)


def sinusoids(size: Size, channels: int) -> Tensor:
    """[channels, H, W]: in each half the sines, then the cosines, of the row or the column."""
    half = channels // 2
    result = torch.zeros(channels, *size, dtype=torch.float64)
    for wave in range(half // 2):
        rate = 10_000.0 ** (-2 * wave / half)
        for y in range(size[0]):
            result[wave, y], result[half // 2 + wave, y] = math.sin(y * rate), math.cos(y * rate)
        for x in range(size[1]):
            result[half + wave, :, x] = math.sin(x * rate)
            result[half + half // 2 + wave, :, x] = math.cos(x * rate)
    return result


def naive_stand_alone(
    x: Tensor, state: State, *, num_heads: int, span: int, positions: str, query_key: bool
) -> Tensor:
    """SASA's eq. 2 and 3: y = sum of softmax(q·k + q·r) v over the window, no norm, no bias."""
    size = (x.shape[2], x.shape[3])
    num_pixels = size[0] * size[1]
    found = pairs(size, span, "window")
    if positions == "absolute":
        x = x + sinusoids(size, x.shape[1]).to(x)
    parts = project(x, state["qkv.weight"]).chunk(3 if query_key else 2, dim=2)
    split = [heads(part, num_heads) for part in parts]
    query, value = split[0], split[-1]
    logits = query.new_zeros(len(query), len(found.query), num_heads)
    if query_key:
        logits = logits + (query[:, found.query] * split[1][:, found.key]).sum(3)
    r_query = relative(state, "query", "window", found)
    assert (r_query is not None) == (positions == "relative")
    if r_query is not None:
        logits = logits + (query[:, found.query] * r_query[:, None]).sum(3)
    weights = softmax_by_query(logits, found, num_pixels)
    return image(weighted_sum(weights, value[:, found.key], found, num_pixels), size)
