"""Pieces of the fused kernels: where queries are, loads, and the logits at one offset.

Queries are numbered as they lie in the memory of the results, [images, height, width, heads]. A
tile is T of them, side by side; a program takes one offset of the window after the other, at which
each query has one key and all have the same row of the tables. README.md beside this file says
why.

Shape letters: T queries (or keys) of a tile, C channels, padded to a power of two with zeros.
Names in capitals are known when a kernel is compiled. Arguments that travel together are tuples:

    features     query, key, value, [images, heads, height, width, channels]
    tables       of query, key, value, [SPAN, SPAN, channels]; None where the term is absent
    strides      of image, row and column, of each of the features
    size         height and width
    place        image, head, row and column of the tile's queries, [T] each
    step         rows down and columns to the right from there
    scales       of q·k, q·r and k·r, [T] each
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def locate(number, size, HEADS: tl.constexpr):
    """Image, head, row and column of queries by their number."""
    pixel = number // HEADS
    row = pixel // size[1]
    return row // size[0], number % HEADS, row % size[0], pixel % size[1]


@triton.jit
def step_of(offset, SPAN: tl.constexpr):
    """Rows and columns from a query to its key at the offset, 0 being the upper left one."""
    return offset // SPAN - SPAN // 2, offset % SPAN - SPAN // 2


@triton.jit
def in_image(place, step, size):
    """[T], whether there is something one step from ``place``."""
    row, column = place[2] + step[0], place[3] + step[1]
    return (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])


@triton.jit
def load_features(pointer, place, step, strides, inside, CHANNELS: tl.constexpr):
    """[T, C] in float32, zero where ``inside`` [T] is false; a single zero for None."""
    if pointer is None:
        return tl.zeros([1, 1], tl.float32)
    else:
        WIDTH: tl.constexpr = triton.next_power_of_2(CHANNELS)
        channels = tl.arange(0, WIDTH)
        # What does not change from step to step comes first.
        start = (
            place[0].to(tl.int64) * strides[0]
            + place[2].to(tl.int64) * strides[1]
            + place[3].to(tl.int64) * strides[2]
            + place[1] * CHANNELS
        )
        shift = tl.cast(step[0], tl.int64) * strides[1] + tl.cast(step[1], tl.int64) * strides[2]
        mask = inside[:, None] & (channels < CHANNELS)[None, :]
        pointers = pointer + (start + shift)[:, None] + channels[None, :]
        return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def token_pointers(pointer, number, CHANNELS: tl.constexpr):
    """Pointers [T, C] into [images, height, width, heads, channels]."""
    channels = tl.arange(0, triton.next_power_of_2(CHANNELS))
    return pointer + number.to(tl.int64)[:, None] * CHANNELS + channels[None, :]


@triton.jit
def load_tokens(pointer, number, inside, CHANNELS: tl.constexpr):
    """As :func:`load_features`, of what the kernels or their launch laid out."""
    if pointer is None:
        return tl.zeros([1, 1], tl.float32)
    else:
        channels = tl.arange(0, triton.next_power_of_2(CHANNELS))
        mask = inside[:, None] & (channels < CHANNELS)[None, :]
        pointers = token_pointers(pointer, number, CHANNELS)
        return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_tokens(pointer, tile, number, inside, CHANNELS: tl.constexpr):
    """The counterpart of :func:`load_tokens`."""
    channels = tl.arange(0, triton.next_power_of_2(CHANNELS))
    mask = inside[:, None] & (channels < CHANNELS)[None, :]
    pointers = token_pointers(pointer, number, CHANNELS)
    tl.store(pointers, tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_embedding(table, offset, CHANNELS: tl.constexpr):
    """The table's row of an offset, [1, C] in float32."""
    channels = tl.arange(0, triton.next_power_of_2(CHANNELS))
    row = tl.load(table + offset * CHANNELS + channels, mask=channels < CHANNELS, other=0.0)
    return row.to(tl.float32)[None, :]


@triton.jit
def load_scale(logit_scale, head, TERM: tl.constexpr, HEADS: tl.constexpr):
    """[T]; ones without a ``logit_scale`` [3, HEADS]."""
    if logit_scale is None:
        return tl.full([head.shape[0]], 1.0, tl.float32)
    else:
        return tl.load(logit_scale + TERM * HEADS + head).to(tl.float32)


@triton.jit
def load_scales(logit_scale, head, HEADS: tl.constexpr):
    return (
        load_scale(logit_scale, head, 0, HEADS),
        load_scale(logit_scale, head, 1, HEADS),
        load_scale(logit_scale, head, 2, HEADS),
    )


@triton.jit
def scaled_logits(
    query, key, tables, scales, offset, CHANNELS: tl.constexpr, QUERY_KEY: tl.constexpr
):
    """Logits [T] of each query with its key at the offset, in units of log 2."""
    products = tl.zeros(query.shape, tl.float32)
    if QUERY_KEY:
        products += query * scales[0][:, None] * key
    if tables[0] is not None:
        embedding = load_embedding(tables[0], offset, CHANNELS)
        products += query * scales[1][:, None] * embedding
    if tables[1] is not None:
        embedding = load_embedding(tables[1], offset, CHANNELS)
        products += key * scales[2][:, None] * embedding
    return tl.sum(products, 1) * LOG2_E
