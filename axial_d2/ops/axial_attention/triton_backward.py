"""What the fused backward kernels share: the weights of a tile again, and their gradient.

Shape letters and tuples as in :mod:`.triton_tiles`; further ones:

    upstream     gradients of content and position
    statistics   log-sum-exp of the logits over log 2, and sum_j weight_ij (gradient of weight)_ij
"""

from __future__ import annotations

import triton
import triton.language as tl
from axial_d2.ops.axial_attention.triton_tiles import (
    VARYING,
    in_window,
    load_embeddings,
    load_features,
    product,
    scaled_logits,
    statistic_pointers,
)


@triton.jit(do_not_specialize=VARYING)
def sum_products(
    retrieved, upstream, result, lines, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
    LINES: tl.constexpr,
):  # fmt: skip
    """``result`` [lines] = retrieved · upstream of content and position, each [lines, channels].

    It is what a softmax's backward subtracts: sum_j weight_ij (gradient of weight)_ij.
    """
    line = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)
    channels = tl.arange(0, WIDTH)
    offsets = line[:, None] * CHANNELS + channels[None, :]
    mask = (line < lines)[:, None] & (channels < CHANNELS)[None, :]
    total = tl.zeros([LINES], tl.float32)
    if retrieved[0] is not None:
        content = tl.load(retrieved[0] + offsets, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.load(upstream[0] + offsets, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(content * gradient, 1)
    if retrieved[1] is not None:
        position = tl.load(retrieved[1] + offsets, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.load(upstream[1] + offsets, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(position * gradient, 1)
    tl.store(result + line, total, mask=line < lines)


@triton.jit
def gradient_of_weights(
    features,
    tables,
    limits,
    upstream,
    value_strides,
    upstream_strides,
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
    ARITHMETIC: tl.constexpr,
):
    """[G, Q, J]."""
    gradient = tl.zeros([GROUPS, queries.shape[0], keys.shape[0]], tl.float32)
    for channel in range(0, CHANNELS if KEEP else channels, CHUNK):
        if features[2] is not None:
            value = load_features(
                features[2], first_group, keys, key_inside, value_strides, channel,
                HEADS, GROUPS, CHANNELS, CHUNK, UNIT,
            )  # fmt: skip
            from_content = load_features(
                upstream[0], first_group, queries, query_inside, upstream_strides, channel,
                HEADS, GROUPS, CHANNELS, CHUNK, UNIT,
            )  # fmt: skip
            gradient = product(from_content, tl.permute(value, (0, 2, 1)), ARITHMETIC, gradient)
        if tables[2] is not None:
            offsets = keys[None, :] - queries[:, None]
            embeddings = load_embeddings(tables[2], offsets, limits[2], channel, CHANNELS, CHUNK)
            from_position = load_features(
                upstream[1], first_group, queries, query_inside, upstream_strides, channel,
                HEADS, GROUPS, CHANNELS, CHUNK, UNIT,
            )  # fmt: skip
            part = product(  # [Q, G, J]
                tl.permute(from_position, (1, 0, 2)),
                tl.permute(embeddings, (0, 2, 1)),
                ARITHMETIC,
            )
            gradient += tl.permute(part, (1, 0, 2))
    return gradient


@triton.jit
def weights_and_gradient(
    features,
    tables,
    limits,
    logit_scale,
    upstream,
    statistics,
    key_strides,
    value_strides,
    upstream_strides,
    sizes,
    channels,
    first_group,
    queries,
    keys,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
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
    """Weights of a tile and the gradient of its logits, [G, Q, J]; zero outside of the window."""
    groups, length, reach = sizes
    exists = first_group + tl.arange(0, GROUPS) < groups
    query_inside = exists[:, None] & (queries < length)[None, :]
    key_inside = exists[:, None] & (keys < length)[None, :]
    logits = scaled_logits(
        features, tables, limits, logit_scale, key_strides,
        first_group, queries, keys, query_inside, key_inside, channels[0],
        HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, UNIT, KEEP, QUERY_KEY, ARITHMETIC,
    )  # fmt: skip
    log_sum = tl.load(
        statistic_pointers(statistics[0], first_group, queries, length, HEADS, GROUPS),
        mask=query_inside,
        other=0.0,
    )
    mean_gradient = tl.load(
        statistic_pointers(statistics[1], first_group, queries, length, HEADS, GROUPS),
        mask=query_inside,
        other=0.0,
    )
    visible = in_window(queries, keys, length, reach, LOCAL)
    weights = tl.where(visible[None, :, :], tl.exp2(logits - log_sum[:, :, None]), 0.0)
    gradient = gradient_of_weights(
        features, tables, limits, upstream, value_strides, upstream_strides,
        first_group, queries, keys, query_inside, key_inside, channels[1],
        HEADS, GROUPS, VALUE_CHANNELS, VALUE_CHUNK, UNIT, KEEP, ARITHMETIC,
    )  # fmt: skip
    return weights, weights * (gradient - mean_gradient[:, :, None])
