"""The fused forward kernel: one program for a block of groups and a block of queries.

Shape letters and tuples as in :mod:`.triton_tiles`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from axial_d2.ops.axial_attention.triton_tiles import (
    VARYING,
    in_window,
    load_embeddings,
    load_features,
    partners,
    product,
    scaled_logits,
    statistic_pointers,
    store_features,
)


@triton.jit(do_not_specialize=VARYING)
def attend(
    features,
    tables,
    limits,
    logit_scale,
    retrieved,
    log_sum,
    groups,
    length,
    reach,
    key_row,
    key_head,
    key_position,
    value_row,
    value_head,
    value_position,
    channels,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    KEY_CHANNELS: tl.constexpr,
    KEY_CHUNK: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr,
    VALUE_CHUNK: tl.constexpr,
    UNIT: tl.constexpr,
    KEEP: tl.constexpr,
    QUERY_KEY: tl.constexpr,
    LOCAL: tl.constexpr,
    ARITHMETIC: tl.constexpr,
):
    """Writes a chunk of channels of ``retrieved``, (content, position), and the ``log_sum``.

    An online softmax over blocks of keys, in units of log 2. The results' memory is
    [rows, length, heads, channels], that of ``log_sum`` [rows, length, heads].
    """
    key_strides = (key_row, key_head, key_position)
    value_strides = (value_row, value_head, value_position)
    line = HEADS * VALUE_CHANNELS // UNIT
    result_strides = (length * line, VALUE_CHANNELS // UNIT, line)
    chunks: tl.constexpr = (VALUE_CHANNELS + VALUE_CHUNK - 1) // VALUE_CHUNK
    blocks = tl.cdiv(length, QUERIES)
    program = tl.program_id(0)
    channel = program % chunks * VALUE_CHUNK
    first_query = program // chunks % blocks * QUERIES
    first_group = program // chunks // blocks * GROUPS
    exists = first_group + tl.arange(0, GROUPS) < groups
    queries = first_query + tl.arange(0, QUERIES)
    query_inside = exists[:, None] & (queries < length)[None, :]

    largest = tl.full([GROUPS, QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([GROUPS, QUERIES], tl.float32)
    content = tl.zeros([GROUPS, QUERIES, VALUE_CHUNK], tl.float32)
    position = tl.zeros([GROUPS, QUERIES, VALUE_CHUNK], tl.float32)
    start, end = partners(first_query, length, reach, QUERIES, KEYS, LOCAL)
    for first_key in range(start, end, KEYS):
        keys = first_key + tl.arange(0, KEYS)
        key_inside = exists[:, None] & (keys < length)[None, :]
        logits = scaled_logits(
            features, tables, limits, logit_scale, key_strides, first_group, queries, keys,
            query_inside, key_inside, channels[0], HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, UNIT,
            KEEP, QUERY_KEY, ARITHMETIC,
        )  # fmt: skip
        visible = in_window(queries, keys, length, reach, LOCAL)
        logits = tl.where(visible[None, :, :], logits, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(logits, 2))
        # For a query that has seen no key yet, any finite shift will do.
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weights = tl.exp2(logits - shift[:, :, None])
        decay = tl.exp2(largest - shift)
        largest = new_largest
        total = total * decay + tl.sum(weights, 2)
        if features[2] is not None:
            value = load_features(
                features[2], first_group, keys, key_inside, value_strides, channel,
                HEADS, GROUPS, VALUE_CHANNELS, VALUE_CHUNK, UNIT,
            )  # fmt: skip
            content = product(weights, value, ARITHMETIC, content * decay[:, :, None])
        if tables[2] is not None:
            offsets = keys[None, :] - queries[:, None]
            embeddings = load_embeddings(
                tables[2], offsets, limits[2], channel, VALUE_CHANNELS, VALUE_CHUNK
            )
            part = product(tl.permute(weights, (1, 0, 2)), embeddings, ARITHMETIC)  # [Q, G, V]
            position = position * decay[:, :, None] + tl.permute(part, (1, 0, 2))

    # Queries beyond the axis have seen no key.
    total = tl.where(total == 0.0, 1.0, total)
    if features[2] is not None:
        store_features(
            retrieved[0], content / total[:, :, None], first_group, queries, query_inside,
            result_strides, channel, HEADS, GROUPS, VALUE_CHANNELS, VALUE_CHUNK, UNIT,
        )  # fmt: skip
    if tables[2] is not None:
        store_features(
            retrieved[1], position / total[:, :, None], first_group, queries, query_inside,
            result_strides, channel, HEADS, GROUPS, VALUE_CHANNELS, VALUE_CHUNK, UNIT,
        )  # fmt: skip
    if channel == 0:
        pointers = statistic_pointers(log_sum, first_group, queries, length, HEADS, GROUPS)
        tl.store(pointers, largest + tl.log2(total), mask=query_inside)
