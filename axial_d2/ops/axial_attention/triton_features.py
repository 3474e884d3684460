"""The backward kernels of query, key, value and the logits' scales.

A program owns what it writes, so nothing is added up between programs. Shape letters and tuples as
in :mod:`.triton_tiles` and :mod:`.triton_backward`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from axial_d2.ops.axial_attention.triton_backward import weights_and_gradient
from axial_d2.ops.axial_attention.triton_tiles import (
    VARYING,
    load_embeddings,
    load_features,
    load_scale,
    partners,
    product,
    store_features,
)


@triton.jit(do_not_specialize=VARYING)
def query_gradient(
    features,
    tables,
    limits,
    logit_scale,
    upstream,
    statistics,
    result,
    scale_parts,
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
    """Writes a chunk of channels of the query's gradient for a block of groups and of queries.

    Also its part of the gradients of the first two scales, ``scale_parts`` [2, parts, groups].
    """
    key_strides = (key_row, key_head, key_position)
    value_strides = (value_row, value_head, value_position)
    key_line = HEADS * KEY_CHANNELS // UNIT
    key_tokens = (length * key_line, KEY_CHANNELS // UNIT, key_line)
    value_line = HEADS * VALUE_CHANNELS // UNIT
    value_tokens = (length * value_line, VALUE_CHANNELS // UNIT, value_line)
    sizes = (groups, length, reach)
    blocks = tl.cdiv(length, QUERIES)
    chunks: tl.constexpr = (KEY_CHANNELS + KEY_CHUNK - 1) // KEY_CHUNK
    program = tl.program_id(0)
    part = program % (chunks * blocks)
    channel = program % chunks * KEY_CHUNK
    first_query = program // chunks % blocks * QUERIES
    first_group = program // chunks // blocks * GROUPS
    group = first_group + tl.arange(0, GROUPS)
    exists = group < groups
    queries = first_query + tl.arange(0, QUERIES)
    query_inside = exists[:, None] & (queries < length)[None, :]

    by_content = tl.zeros([GROUPS, QUERIES, KEY_CHUNK], tl.float32)
    by_position = tl.zeros([QUERIES, GROUPS, KEY_CHUNK], tl.float32)
    start, end = partners(first_query, length, reach, QUERIES, KEYS, LOCAL)
    for first_key in range(start, end, KEYS):
        keys = first_key + tl.arange(0, KEYS)
        _weights, logits = weights_and_gradient(
            features, tables, limits, logit_scale, upstream, statistics,
            key_strides, value_strides, value_tokens, sizes, channels, first_group, queries, keys,
            HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, VALUE_CHANNELS, VALUE_CHUNK, UNIT,
            KEEP, QUERY_KEY, LOCAL, ARITHMETIC,
        )  # fmt: skip
        if QUERY_KEY:
            key = load_features(
                features[1], first_group, keys, exists[:, None] & (keys < length)[None, :],
                key_strides, channel, HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, UNIT,
            )  # fmt: skip
            by_content = product(logits, key, ARITHMETIC, by_content)
        if tables[0] is not None:
            offsets = keys[None, :] - queries[:, None]
            embeddings = load_embeddings(
                tables[0], offsets, limits[0], channel, KEY_CHANNELS, KEY_CHUNK
            )
            by_position = product(
                tl.permute(logits, (1, 0, 2)), embeddings, ARITHMETIC, by_position
            )

    from_position = tl.permute(by_position, (1, 0, 2))
    content_scale = load_scale(logit_scale, first_group, 0, HEADS, GROUPS)
    query_scale = load_scale(logit_scale, first_group, 1, HEADS, GROUPS)
    gradient = (
        by_content * content_scale[:, None, None] + from_position * query_scale[:, None, None]
    )
    store_features(
        result, gradient, first_group, queries, query_inside, key_tokens, channel,
        HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, UNIT,
    )  # fmt: skip
    if scale_parts is not None:
        query = load_features(
            features[0], first_group, queries, query_inside, key_strides, channel,
            HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, UNIT,
        ).to(tl.float32)  # fmt: skip
        pointers = scale_parts + part.to(tl.int64) * groups + group
        tl.store(pointers, tl.sum(tl.sum(query * by_content, 2), 1), mask=exists)
        pointers += chunks * blocks.to(tl.int64) * groups
        tl.store(pointers, tl.sum(tl.sum(query * from_position, 2), 1), mask=exists)


@triton.jit(do_not_specialize=VARYING)
def key_and_value_gradient(
    features,
    tables,
    limits,
    logit_scale,
    upstream,
    statistics,
    results,
    scale_parts,
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
    CHUNKS: tl.constexpr,
    UNIT: tl.constexpr,
    KEEP: tl.constexpr,
    QUERY_KEY: tl.constexpr,
    LOCAL: tl.constexpr,
    ARITHMETIC: tl.constexpr,
):
    """Writes a chunk of channels of the ``results``, gradients of (key, value).

    A program has a block of groups and of keys. Also writes its part of the third scale's
    gradient, ``scale_parts`` [parts, groups].
    """
    key_strides = (key_row, key_head, key_position)
    value_strides = (value_row, value_head, value_position)
    key_line = HEADS * KEY_CHANNELS // UNIT
    key_tokens = (length * key_line, KEY_CHANNELS // UNIT, key_line)
    value_line = HEADS * VALUE_CHANNELS // UNIT
    value_tokens = (length * value_line, VALUE_CHANNELS // UNIT, value_line)
    sizes = (groups, length, reach)
    blocks = tl.cdiv(length, KEYS)
    program = tl.program_id(0)
    part = program % (CHUNKS * blocks)
    chunk = program % CHUNKS
    first_key = program // CHUNKS % blocks * KEYS
    first_group = program // CHUNKS // blocks * GROUPS
    group = first_group + tl.arange(0, GROUPS)
    exists = group < groups
    keys = first_key + tl.arange(0, KEYS)
    key_inside = exists[:, None] & (keys < length)[None, :]

    by_content = tl.zeros([GROUPS, KEYS, KEY_CHUNK], tl.float32)
    by_position = tl.zeros([KEYS, GROUPS, KEY_CHUNK], tl.float32)
    of_value = tl.zeros([GROUPS, KEYS, VALUE_CHUNK], tl.float32)
    start, end = partners(first_key, length, reach, KEYS, QUERIES, LOCAL)
    for first_query in range(start, end, QUERIES):
        queries = first_query + tl.arange(0, QUERIES)
        query_inside = exists[:, None] & (queries < length)[None, :]
        weights, logits = weights_and_gradient(
            features, tables, limits, logit_scale, upstream, statistics,
            key_strides, value_strides, value_tokens, sizes, channels, first_group, queries, keys,
            HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, VALUE_CHANNELS, VALUE_CHUNK, UNIT,
            KEEP, QUERY_KEY, LOCAL, ARITHMETIC,
        )  # fmt: skip
        if QUERY_KEY:
            query = load_features(
                features[0], first_group, queries, query_inside, key_strides,
                chunk * KEY_CHUNK, HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, UNIT,
            )  # fmt: skip
            by_content = product(tl.permute(logits, (0, 2, 1)), query, ARITHMETIC, by_content)
        if tables[1] is not None:
            offsets = keys[:, None] - queries[None, :]
            embeddings = load_embeddings(
                tables[1], offsets, limits[1], chunk * KEY_CHUNK, KEY_CHANNELS, KEY_CHUNK
            )
            by_position = product(
                tl.permute(logits, (2, 0, 1)), embeddings, ARITHMETIC, by_position
            )
        if features[2] is not None:
            from_content = load_features(
                upstream[0], first_group, queries, query_inside, value_tokens,
                chunk * VALUE_CHUNK, HEADS, GROUPS, VALUE_CHANNELS, VALUE_CHUNK, UNIT,
            )  # fmt: skip
            of_value = product(tl.permute(weights, (0, 2, 1)), from_content, ARITHMETIC, of_value)

    from_position = tl.permute(by_position, (1, 0, 2))
    content_scale = load_scale(logit_scale, first_group, 0, HEADS, GROUPS)
    key_scale = load_scale(logit_scale, first_group, 2, HEADS, GROUPS)
    gradient = by_content * content_scale[:, None, None] + from_position * key_scale[:, None, None]
    store_features(
        results[0], gradient, first_group, keys, key_inside, key_tokens,
        chunk * KEY_CHUNK, HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, UNIT,
    )  # fmt: skip
    if features[2] is not None:
        store_features(
            results[1], of_value, first_group, keys, key_inside, value_tokens,
            chunk * VALUE_CHUNK, HEADS, GROUPS, VALUE_CHANNELS, VALUE_CHUNK, UNIT,
        )  # fmt: skip
    if scale_parts is not None:
        key = load_features(
            features[1], first_group, keys, key_inside, key_strides, chunk * KEY_CHUNK,
            HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, UNIT,
        ).to(tl.float32)  # fmt: skip
        pointers = scale_parts + part.to(tl.int64) * groups + group
        tl.store(pointers, tl.sum(tl.sum(key * from_position, 2), 1), mask=exists)
