"""Pieces of the fused kernels: loads, products and the logits of one tile.

A tile is GROUPS x QUERIES x KEYS: some groups (a group is one head of one row), some query and
some key positions. Tables are shared by all groups, so a term of the tables is a product for each
position over the tile's groups. The dimension that comes first is the batch of a product:
[G, Q, J] for products of a group, [Q, G, J] for those of a query position, [J, G, Q] for those of
a key position. README.md beside this file says why.

Shape letters: G groups, Q queries, J keys of a tile; P positions, queries or keys; C a chunk of
channels, padded with zeros. Names in capitals are known when a kernel is compiled. Arguments
that travel together are tuples:

    features     query, key, value
    tables       of query, key, value; None where the term is absent
    limits       of the tables: (rows - 1) / 2
    strides      of row, head and position, in UNITs; query and key share theirs
    sizes        groups, length of the axis, half of the window
    channels     of key and of value, for loops that are not to be unrolled
"""

from __future__ import annotations

import triton
import triton.language as tl

# The interpreter multiplies bfloat16 by its bits (Triton 3.6 and 3.7).
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
LOG2_E = tl.constexpr(1.4426950408889634)
# Sizes that vary from call to call; a kernel for each residue would be compiled otherwise.
VARYING = [
    *("groups", "length", "reach"),
    *("key_row", "key_head", "key_position", "value_row", "value_head", "value_position"),
    *("outer_diagonal", "splits", "lines", "rows", "center"),
]


@triton.jit
def head_of(numbers):
    """float32 numbers cut to the 11 bits that tensor cores multiply exactly."""
    return (numbers.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def product(left, right, ARITHMETIC: tl.constexpr, total=None):
    """Batched matrix product, added to ``total`` in float32.

    ARITHMETIC is "float32" (three TF32 products of heads and tails, 2⁻²¹ relative), or the type
    to which the factors are rounded: "tf32", "bfloat16" or "float16".
    """
    if ARITHMETIC == "float32":
        left, right = left.to(tl.float32), right.to(tl.float32)
        left_head, right_head = head_of(left), head_of(right)
        total = tl.dot(left - left_head, right_head, total, input_precision="tf32")
        total = tl.dot(left_head, right - right_head, total, input_precision="tf32")
        total = tl.dot(left_head, right_head, total, input_precision="tf32")
    elif ARITHMETIC == "tf32":
        total = tl.dot(left.to(tl.float32), right.to(tl.float32), total, input_precision="tf32")
    else:
        if ARITHMETIC == "bfloat16":
            left, right = left.to(tl.bfloat16), right.to(tl.bfloat16)
        else:
            left, right = left.to(tl.float16), right.to(tl.float16)
        if INTERPRETED:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total)
    return total


@triton.jit
def feature_pointers(
    pointer, first_group, positions, strides, channels, HEADS, GROUPS: tl.constexpr, UNIT
):
    """Pointers [G, P, C] into [rows, heads, length, channels].

    Only the first row's offset may need 64 bits: the launch sees to it.
    """
    first_row = first_group // HEADS
    group = first_group + tl.arange(0, GROUPS)
    offsets = (group // HEADS - first_row) * strides[0] + group % HEADS * strides[1]
    offsets = offsets[:, None] + positions[None, :] * strides[2]
    base = pointer + first_row.to(tl.int64) * strides[0] * UNIT
    return base + (offsets[:, :, None] * UNIT + channels[None, None, :])


@triton.jit
def load_features(
    pointer,
    first_group,
    positions,
    inside,
    strides,
    first_channel,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr,
    UNIT: tl.constexpr,
):
    """[G, P, C] from ``first_channel`` on; zero where ``inside`` [G, P] is false."""
    channels = first_channel + tl.arange(0, CHUNK)
    pointers = feature_pointers(
        pointer, first_group, positions, strides, channels, HEADS, GROUPS, UNIT
    )
    mask = inside[:, :, None] & (channels < CHANNELS)[None, None, :]
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def store_features(
    pointer,
    tile,
    first_group,
    positions,
    inside,
    strides,
    first_channel,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr,
    UNIT: tl.constexpr,
):
    """The counterpart of :func:`load_features`."""
    channels = first_channel + tl.arange(0, CHUNK)
    pointers = feature_pointers(
        pointer, first_group, positions, strides, channels, HEADS, GROUPS, UNIT
    )
    mask = inside[:, :, None] & (channels < CHANNELS)[None, None, :]
    tl.store(pointers, tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def statistic_pointers(
    pointer, first_group, positions, length, HEADS: tl.constexpr, GROUPS: tl.constexpr
):
    """Pointers [G, P] into [rows, length, heads], one number a query."""
    group = first_group + tl.arange(0, GROUPS)
    line = (group // HEADS).to(tl.int64) * length
    return pointer + ((line[:, None] + positions[None, :]) * HEADS + (group % HEADS)[:, None])


@triton.jit
def load_embeddings(
    table, offsets, limit, first_channel, CHANNELS: tl.constexpr, CHUNK: tl.constexpr
):
    """Rows of a table [2 limit + 1, channels] for some offsets [A, B]: [A, B, C]."""
    row = tl.minimum(tl.maximum(offsets, -limit), limit) + limit
    channels = first_channel + tl.arange(0, CHUNK)
    pointers = table + (row[:, :, None] * CHANNELS + channels[None, None, :])
    return tl.load(pointers, mask=(channels < CHANNELS)[None, None, :], other=0.0)


@triton.jit
def load_scale(
    logit_scale, first_group, TERM: tl.constexpr, HEADS: tl.constexpr, GROUPS: tl.constexpr
):
    """Factors of one term for each group, [G]; ones without a ``logit_scale`` [3, HEADS]."""
    if logit_scale is None:
        return tl.full([GROUPS], 1.0, tl.float32)
    else:
        head = (first_group + tl.arange(0, GROUPS)) % HEADS
        return tl.load(logit_scale + TERM * HEADS + head).to(tl.float32)


@triton.jit
def partners(first, length, reach, OWN: tl.constexpr, OTHER: tl.constexpr, LOCAL: tl.constexpr):
    """First and end of what a block of positions sees: keys of queries, or the reverse."""
    start = 0
    end = length
    if LOCAL:
        start = tl.maximum(first - reach, 0) // OTHER * OTHER
        end = tl.minimum(first + OWN + reach, length)
    return start, end


@triton.jit
def in_window(queries, keys, length, reach, LOCAL: tl.constexpr):
    """[Q, J], true where query and key exist and see each other."""
    inside = (queries < length)[:, None] & (keys < length)[None, :]
    if LOCAL:
        offsets = keys[None, :] - queries[:, None]
        inside = inside & (offsets <= reach) & (offsets >= -reach)
    return inside


@triton.jit
def scaled_logits(
    features,
    tables,
    limits,
    logit_scale,
    strides,
    first_group,
    queries,
    keys,
    query_inside,
    key_inside,
    channels,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr,
    UNIT: tl.constexpr,
    KEEP: tl.constexpr,
    QUERY_KEY: tl.constexpr,
    ARITHMETIC: tl.constexpr,
):
    """Logits of a tile, [G, Q, J], in units of log 2 and before the window's mask."""
    content_scale = load_scale(logit_scale, first_group, 0, HEADS, GROUPS) * LOG2_E
    query_scale = load_scale(logit_scale, first_group, 1, HEADS, GROUPS) * LOG2_E
    key_scale = load_scale(logit_scale, first_group, 2, HEADS, GROUPS) * LOG2_E
    logits = tl.zeros([GROUPS, queries.shape[0], keys.shape[0]], tl.float32)
    for channel in range(0, CHANNELS if KEEP else channels, CHUNK):
        query = load_features(
            features[0], first_group, queries, query_inside, strides, channel,
            HEADS, GROUPS, CHANNELS, CHUNK, UNIT,
        )  # fmt: skip
        key = load_features(
            features[1], first_group, keys, key_inside, strides, channel,
            HEADS, GROUPS, CHANNELS, CHUNK, UNIT,
        )  # fmt: skip
        if QUERY_KEY:
            term = product(query, tl.permute(key, (0, 2, 1)), ARITHMETIC)
            logits += term * content_scale[:, None, None]
        if tables[0] is not None:
            offsets = keys[None, :] - queries[:, None]
            embeddings = load_embeddings(tables[0], offsets, limits[0], channel, CHANNELS, CHUNK)
            term = product(  # [Q, G, J]
                tl.permute(query, (1, 0, 2)), tl.permute(embeddings, (0, 2, 1)), ARITHMETIC
            )
            logits += tl.permute(term, (1, 0, 2)) * query_scale[:, None, None]
        if tables[1] is not None:
            offsets = keys[:, None] - queries[None, :]
            embeddings = load_embeddings(tables[1], offsets, limits[1], channel, CHANNELS, CHUNK)
            term = product(  # [J, G, Q]
                tl.permute(key, (1, 0, 2)), tl.permute(embeddings, (0, 2, 1)), ARITHMETIC
            )
            logits += tl.permute(term, (1, 2, 0)) * key_scale[:, None, None]
    return logits
