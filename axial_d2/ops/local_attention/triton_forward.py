"""The fused forward kernel: one program for a tile of queries.

Shape letters and tuples as in :mod:`.triton_tiles`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from axial_d2.ops.local_attention.triton_tiles import (
    in_image,
    load_embedding,
    load_features,
    load_scales,
    locate,
    scaled_logits,
    step_of,
    store_tokens,
)


@triton.jit(do_not_specialize=["queries", "size"])
def attend(
    features,
    tables,
    logit_scale,
    retrieved,
    log_sum,
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
    """Writes ``retrieved``, (content, position), and the ``log_sum`` in units of log 2.

    An online softmax, from offset to offset.
    """
    number = tl.program_id(0) * TILE + tl.arange(0, TILE)
    exists = number < queries
    place = locate(number, size, HEADS)
    scales = load_scales(logit_scale, place[1], HEADS)
    query = load_features(features[0], place, (0, 0), strides[0], exists, KEY_CHANNELS)

    largest = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    content = tl.zeros([TILE, triton.next_power_of_2(VALUE_CHANNELS)], tl.float32)
    position = tl.zeros([TILE, triton.next_power_of_2(VALUE_CHANNELS)], tl.float32)
    for offset in range(SPAN * SPAN):
        step = step_of(offset, SPAN)
        visible = exists & in_image(place, step, size)
        key = load_features(features[1], place, step, strides[1], visible, KEY_CHANNELS)
        logits = scaled_logits(query, key, tables, scales, offset, KEY_CHANNELS, QUERY_KEY)
        logits = tl.where(visible, logits, float("-inf"))
        new_largest = tl.maximum(largest, logits)
        # For a query that has seen no key yet, any finite shift will do.
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weights = tl.exp2(logits - shift)
        decay = tl.exp2(largest - shift)
        largest = new_largest
        total = total * decay + weights
        if features[2] is not None:
            value = load_features(features[2], place, step, strides[2], visible, VALUE_CHANNELS)
            content = content * decay[:, None] + weights[:, None] * value
        if tables[2] is not None:
            embedding = load_embedding(tables[2], offset, VALUE_CHANNELS)
            position = position * decay[:, None] + weights[:, None] * embedding

    # A tile's last queries may not exist, and have seen no key.
    total = tl.where(exists, total, 1.0)
    if features[2] is not None:
        store_tokens(retrieved[0], content / total[:, None], number, exists, VALUE_CHANNELS)
    if tables[2] is not None:
        store_tokens(retrieved[1], position / total[:, None], number, exists, VALUE_CHANNELS)
    tl.store(log_sum + number, largest + tl.log2(total), mask=exists)
