"""The fused backward kernels. A program owns what it writes: there are no atomics.

Shape letters and tuples as in :mod:`.triton_tiles`; further ones:

    upstream     gradients of content and position, as tokens
    statistics   log-sum-exp of the logits over log 2, and sum_j weight_ij (gradient of weight)_ij
    of_query     both of a tile's queries: [T, C] and [T]
"""

from __future__ import annotations

import triton
import triton.language as tl
from axial_d2.ops.local_attention.triton_tiles import (
    in_image,
    load_embedding,
    load_features,
    load_scales,
    load_tokens,
    locate,
    scaled_logits,
    step_of,
    store_tokens,
)


@triton.jit
def load_upstream(upstream, statistics, number, inside, CHANNELS: tl.constexpr):
    """Of queries by number: gradients of content and position [T, C], statistics [T]."""
    return (
        load_tokens(upstream[0], number, inside, CHANNELS),
        load_tokens(upstream[1], number, inside, CHANNELS),
        tl.load(statistics[0] + number, mask=inside, other=0.0),
        tl.load(statistics[1] + number, mask=inside, other=0.0),
    )


@triton.jit
def weights_and_gradient(
    query,
    key,
    value,
    of_query,
    features,
    tables,
    scales,
    visible,
    offset,
    KEY_CHANNELS: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr,
    QUERY_KEY: tl.constexpr,
):
    """Weight of each query's key at the offset, and gradient of its logit, [T]; else zero."""
    from_content, from_position, log_sum, mean_gradient = of_query
    logits = scaled_logits(query, key, tables, scales, offset, KEY_CHANNELS, QUERY_KEY)
    weights = tl.where(visible, tl.exp2(logits - log_sum), 0.0)
    products = tl.zeros([query.shape[0], triton.next_power_of_2(VALUE_CHANNELS)], tl.float32)
    if features[2] is not None:
        products += from_content * value
    if tables[2] is not None:
        products += from_position * load_embedding(tables[2], offset, VALUE_CHANNELS)
    return weights, weights * (tl.sum(products, 1) - mean_gradient)


@triton.jit(do_not_specialize=["queries", "size"])
def query_gradient(
    features,
    tables,
    logit_scale,
    retrieved,
    upstream,
    statistics,
    result,
    scale_parts,
    queries,
    size,
    strides,
    HEADS: tl.constexpr,
    SPAN: tl.constexpr,
    KEY_CHANNELS: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr,
    QUERY_KEY: tl.constexpr,
    TILE: tl.constexpr,
):
    """Writes the second of the ``statistics`` and the query's gradient.

    Also each query's part of the gradients of the first two scales, ``scale_parts`` [3, queries].
    """
    number = tl.program_id(0) * TILE + tl.arange(0, TILE)
    exists = number < queries
    place = locate(number, size, HEADS)
    scales = load_scales(logit_scale, place[1], HEADS)
    query = load_features(features[0], place, (0, 0), strides[0], exists, KEY_CHANNELS)
    from_content = load_tokens(upstream[0], number, exists, VALUE_CHANNELS)
    from_position = load_tokens(upstream[1], number, exists, VALUE_CHANNELS)
    mean_gradient = tl.zeros([TILE], tl.float32)
    if features[2] is not None:
        content = load_tokens(retrieved[0], number, exists, VALUE_CHANNELS)
        mean_gradient += tl.sum(content * from_content, 1)
    if tables[2] is not None:
        position = load_tokens(retrieved[1], number, exists, VALUE_CHANNELS)
        mean_gradient += tl.sum(position * from_position, 1)
    tl.store(statistics[1] + number, mean_gradient, mask=exists)
    log_sum = tl.load(statistics[0] + number, mask=exists, other=0.0)
    of_query = (from_content, from_position, log_sum, mean_gradient)

    by_content = tl.zeros(query.shape, tl.float32)
    by_position = tl.zeros(query.shape, tl.float32)
    for offset in range(SPAN * SPAN):
        step = step_of(offset, SPAN)
        visible = exists & in_image(place, step, size)
        key = load_features(features[1], place, step, strides[1], visible, KEY_CHANNELS)
        value = load_features(features[2], place, step, strides[2], visible, VALUE_CHANNELS)
        _weights, logits = weights_and_gradient(
            query, key, value, of_query, features, tables, scales, visible, offset,
            KEY_CHANNELS, VALUE_CHANNELS, QUERY_KEY,
        )  # fmt: skip
        if QUERY_KEY:
            by_content += logits[:, None] * key
        if tables[0] is not None:
            by_position += logits[:, None] * load_embedding(tables[0], offset, KEY_CHANNELS)

    gradient = by_content * scales[0][:, None] + by_position * scales[1][:, None]
    store_tokens(result, gradient, number, exists, KEY_CHANNELS)
    if scale_parts is not None:
        pointers = scale_parts + number
        tl.store(pointers, tl.sum(query * by_content, 1), mask=exists)
        pointers += queries.to(tl.int64)
        tl.store(pointers, tl.sum(query * by_position, 1), mask=exists)


@triton.jit(do_not_specialize=["queries", "size"])
def key_and_value_gradient(
    features,
    tables,
    logit_scale,
    upstream,
    statistics,
    results,
    scale_parts,
    queries,
    size,
    strides,
    HEADS: tl.constexpr,
    SPAN: tl.constexpr,
    KEY_CHANNELS: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr,
    QUERY_KEY: tl.constexpr,
    TILE: tl.constexpr,
):
    """Writes the ``results``, gradients of (key, value); a program has a tile of keys.

    At each offset a key is seen by one query, which lies the other way. Also writes each key's
    part of the gradient of the third scale, ``scale_parts`` [3, keys].
    """
    number = tl.program_id(0) * TILE + tl.arange(0, TILE)
    exists = number < queries
    place = locate(number, size, HEADS)
    scales = load_scales(logit_scale, place[1], HEADS)
    key = load_features(features[1], place, (0, 0), strides[1], exists, KEY_CHANNELS)
    value = load_features(features[2], place, (0, 0), strides[2], exists, VALUE_CHANNELS)

    by_content = tl.zeros(key.shape, tl.float32)
    by_position = tl.zeros(key.shape, tl.float32)
    of_value = tl.zeros([TILE, triton.next_power_of_2(VALUE_CHANNELS)], tl.float32)
    for offset in range(SPAN * SPAN):
        down, right = step_of(offset, SPAN)
        step = (-down, -right)
        visible = exists & in_image(place, step, size)
        seer = number - (down * size[1] + right) * HEADS
        query = load_features(features[0], place, step, strides[0], visible, KEY_CHANNELS)
        of_query = load_upstream(upstream, statistics, seer, visible, VALUE_CHANNELS)
        weights, logits = weights_and_gradient(
            query, key, value, of_query, features, tables, scales, visible, offset,
            KEY_CHANNELS, VALUE_CHANNELS, QUERY_KEY,
        )  # fmt: skip
        if QUERY_KEY:
            by_content += logits[:, None] * query
        if tables[1] is not None:
            by_position += logits[:, None] * load_embedding(tables[1], offset, KEY_CHANNELS)
        if features[2] is not None:
            of_value += weights[:, None] * of_query[0]

    gradient = by_content * scales[0][:, None] + by_position * scales[2][:, None]
    store_tokens(results[0], gradient, number, exists, KEY_CHANNELS)
    if features[2] is not None:
        store_tokens(results[1], of_value, number, exists, VALUE_CHANNELS)
    if scale_parts is not None:
        pointers = scale_parts + 2 * queries.to(tl.int64) + number
        tl.store(pointers, tl.sum(key * by_position, 1), mask=exists)


@triton.jit
def store_part(parts, sums, part, CHANNELS: tl.constexpr):
    """Adds up ``sums`` [T, C] over the tile and writes row ``part``."""
    channels = tl.arange(0, triton.next_power_of_2(CHANNELS))
    tl.store(parts + part * CHANNELS + channels, tl.sum(sums, 0), mask=channels < CHANNELS)


@triton.jit(do_not_specialize=["queries", "size", "splits"])
def table_gradient_parts(
    features,
    tables,
    logit_scale,
    upstream,
    statistics,
    parts,
    queries,
    size,
    strides,
    splits,
    HEADS: tl.constexpr,
    SPAN: tl.constexpr,
    KEY_CHANNELS: tl.constexpr,
    VALUE_CHANNELS: tl.constexpr,
    QUERY_KEY: tl.constexpr,
    TILE: tl.constexpr,
):
    """Writes one part of each table's gradient, ``parts`` [splits, SPAN, SPAN, channels].

    A program has one offset, and goes over its share of the tiles of queries.
    """
    program = tl.program_id(0)
    offset = program % (SPAN * SPAN)
    split = program // (SPAN * SPAN)
    step = step_of(offset, SPAN)
    of_query_table = tl.zeros([TILE, triton.next_power_of_2(KEY_CHANNELS)], tl.float32)
    of_key_table = tl.zeros([TILE, triton.next_power_of_2(KEY_CHANNELS)], tl.float32)
    of_value_table = tl.zeros([TILE, triton.next_power_of_2(VALUE_CHANNELS)], tl.float32)
    for tile in range(split, tl.cdiv(queries, TILE), splits):
        number = tile * TILE + tl.arange(0, TILE)
        place = locate(number, size, HEADS)
        visible = (number < queries) & in_image(place, step, size)
        scales = load_scales(logit_scale, place[1], HEADS)
        query = load_features(features[0], place, (0, 0), strides[0], visible, KEY_CHANNELS)
        key = load_features(features[1], place, step, strides[1], visible, KEY_CHANNELS)
        value = load_features(features[2], place, step, strides[2], visible, VALUE_CHANNELS)
        of_query = load_upstream(upstream, statistics, number, visible, VALUE_CHANNELS)
        weights, logits = weights_and_gradient(
            query, key, value, of_query, features, tables, scales, visible, offset,
            KEY_CHANNELS, VALUE_CHANNELS, QUERY_KEY,
        )  # fmt: skip
        if tables[0] is not None:
            of_query_table += (logits * scales[1])[:, None] * query
        if tables[1] is not None:
            of_key_table += (logits * scales[2])[:, None] * key
        if tables[2] is not None:
            of_value_table += weights[:, None] * of_query[1]

    if tables[0] is not None:
        store_part(parts[0], of_query_table, program, KEY_CHANNELS)
    if tables[1] is not None:
        store_part(parts[1], of_key_table, program, KEY_CHANNELS)
    if tables[2] is not None:
        store_part(parts[2], of_value_table, program, VALUE_CHANNELS)
