"""The backward kernels of the tables: sums over groups without atomics, the same in every run.

All tiles of QUERIES x KEYS on one diagonal of the map (key block - query block = d) see the same
rows of the tables. So a program takes one diagonal and a share of the groups, keeps the gradients
of the tile's embeddings in registers over all of them, adds up the tile's diagonals (offsets) at
the end, and writes one part. :func:`sum_table_parts` then adds the parts in a fixed order. Shape
letters and tuples as in :mod:`.triton_tiles` and :mod:`.triton_backward`; QUERIES = KEYS = BLOCK.
"""

from __future__ import annotations

import triton
import triton.language as tl
from axial_d2.ops.axial_attention.triton_backward import weights_and_gradient
from axial_d2.ops.axial_attention.triton_tiles import (
    VARYING,
    head_of,
    load_features,
    load_scale,
    product,
)


@triton.jit
def store_offset_sums(
    parts, embeddings, part, first_channel, sign, BLOCK: tl.constexpr, CHUNK: tl.constexpr, WIDTH
):
    """Adds up the diagonals of ``embeddings`` [BLOCK, BLOCK, C] and writes [2 BLOCK, C].

    Row ``BLOCK - 1 + sign (second - first position)`` is that offset; the last row stays zero.
    """
    pair = tl.arange(0, BLOCK * BLOCK)
    row = tl.arange(0, 2 * BLOCK)
    offset = sign * (pair % BLOCK - pair // BLOCK) + BLOCK - 1
    selection = tl.where(row[:, None] == offset[None, :], 1.0, 0.0)
    numbers = tl.reshape(embeddings, [BLOCK * BLOCK, CHUNK])
    head = head_of(numbers)
    sums = tl.dot(selection, head, input_precision="tf32")
    sums = tl.dot(selection, numbers - head, sums, input_precision="tf32")
    channels = first_channel + tl.arange(0, CHUNK)
    rows = part.to(tl.int64) * 2 * BLOCK + row
    tl.store(parts + rows[:, None] * WIDTH + channels[None, :], sums)


@triton.jit(do_not_specialize=VARYING)
def table_gradient_parts(
    features,
    tables,
    limits,
    logit_scale,
    upstream,
    statistics,
    parts,
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
    outer_diagonal,
    splits,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
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
    """Writes one part of each table's gradient.

    ``parts`` are [splits, diagonals, 2 BLOCK, CHUNKS * chunk] for query, key and value; the
    diagonals run from -outer_diagonal to outer_diagonal. Blocks of groups are dealt to the splits
    in turn.
    """
    key_strides = (key_row, key_head, key_position)
    value_strides = (value_row, value_head, value_position)
    value_line = HEADS * VALUE_CHANNELS // UNIT
    value_tokens = (length * value_line, VALUE_CHANNELS // UNIT, value_line)
    sizes = (groups, length, reach)
    program = tl.program_id(0)
    chunk = program % CHUNKS
    split = program // CHUNKS % splits
    slot = program // CHUNKS // splits
    diagonal = slot - outer_diagonal
    blocks = tl.cdiv(length, BLOCK)
    tiles = blocks - tl.abs(diagonal)
    first_tile = tl.maximum(-diagonal, 0)
    group_blocks = tl.cdiv(groups, GROUPS)
    share = tl.cdiv(group_blocks - split, splits)

    of_query = tl.zeros([BLOCK, BLOCK, KEY_CHUNK], tl.float32)  # [Q, J, C]
    of_key = tl.zeros([BLOCK, BLOCK, KEY_CHUNK], tl.float32)  # [J, Q, C]
    of_value = tl.zeros([BLOCK, BLOCK, VALUE_CHUNK], tl.float32)  # [Q, J, C]
    for item in range(0, share * tiles):
        first_group = (item // tiles * splits + split) * GROUPS
        exists = first_group + tl.arange(0, GROUPS) < groups
        query_block = first_tile + item % tiles
        queries = query_block * BLOCK + tl.arange(0, BLOCK)
        keys = (query_block + diagonal) * BLOCK + tl.arange(0, BLOCK)
        query_inside = exists[:, None] & (queries < length)[None, :]
        key_inside = exists[:, None] & (keys < length)[None, :]
        weights, logits = weights_and_gradient(
            features, tables, limits, logit_scale, upstream, statistics,
            key_strides, value_strides, value_tokens, sizes, channels, first_group, queries, keys,
            HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, VALUE_CHANNELS, VALUE_CHUNK, UNIT,
            KEEP, QUERY_KEY, LOCAL, ARITHMETIC,
        )  # fmt: skip
        if tables[0] is not None:
            query = load_features(
                features[0], first_group, queries, query_inside, key_strides,
                chunk * KEY_CHUNK, HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, UNIT,
            )  # fmt: skip
            scaled = logits * load_scale(logit_scale, first_group, 1, HEADS, GROUPS)[:, None, None]
            of_query = product(
                tl.permute(scaled, (1, 2, 0)), tl.permute(query, (1, 0, 2)), ARITHMETIC, of_query
            )
        if tables[1] is not None:
            key = load_features(
                features[1], first_group, keys, key_inside, key_strides,
                chunk * KEY_CHUNK, HEADS, GROUPS, KEY_CHANNELS, KEY_CHUNK, UNIT,
            )  # fmt: skip
            scaled = logits * load_scale(logit_scale, first_group, 2, HEADS, GROUPS)[:, None, None]
            of_key = product(
                tl.permute(scaled, (2, 1, 0)), tl.permute(key, (1, 0, 2)), ARITHMETIC, of_key
            )
        if tables[2] is not None:
            from_position = load_features(
                upstream[1], first_group, queries, query_inside, value_tokens,
                chunk * VALUE_CHUNK, HEADS, GROUPS, VALUE_CHANNELS, VALUE_CHUNK, UNIT,
            )  # fmt: skip
            of_value = product(
                tl.permute(weights, (1, 2, 0)), tl.permute(from_position, (1, 0, 2)),
                ARITHMETIC, of_value,
            )  # fmt: skip

    part = split * (2 * outer_diagonal + 1) + slot
    if tables[0] is not None:
        store_offset_sums(
            parts[0], of_query, part, chunk * KEY_CHUNK, 1, BLOCK, KEY_CHUNK, CHUNKS * KEY_CHUNK
        )
    if tables[1] is not None:
        store_offset_sums(
            parts[1], of_key, part, chunk * KEY_CHUNK, -1, BLOCK, KEY_CHUNK, CHUNKS * KEY_CHUNK
        )
    if tables[2] is not None:
        store_offset_sums(
            parts[2], of_value, part, chunk * VALUE_CHUNK, 1,
            BLOCK, VALUE_CHUNK, CHUNKS * VALUE_CHUNK,
        )  # fmt: skip


@triton.jit(do_not_specialize=VARYING)
def sum_table_parts(
    parts,
    result,
    rows,
    center,
    outer_diagonal,
    splits,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """``result`` [rows, channels], row ``center`` being offset 0; zero for offsets of no pair.

    ``parts`` [splits, diagonals, 2 BLOCK, WIDTH]: an offset lies in the lower half of one
    diagonal's rows and in the upper half of the one before.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    diagonals = 2 * outer_diagonal + 1
    shifted = row - center + BLOCK - 1 + outer_diagonal * BLOCK
    # Floor division, also of what lies before the first diagonal.
    slot = (shifted + BLOCK) // BLOCK - 1
    inner = shifted - slot * BLOCK
    total = tl.zeros([ROWS, CHUNK], tl.float32)
    for first_split in range(0, splits, SPLITS):
        split = first_split + tl.arange(0, SPLITS)
        for half in tl.static_range(2):
            here = slot - half
            exists = (split < splits)[:, None] & ((here >= 0) & (here < diagonals))[None, :]
            line = (split[:, None].to(tl.int64) * diagonals + here[None, :]) * 2 * BLOCK
            line += (inner + half * BLOCK)[None, :]
            values = tl.load(
                parts + line[:, :, None] * WIDTH + channels[None, None, :],
                mask=exists[:, :, None],
                other=0.0,
            )
            total += tl.sum(values, 0)
    mask = (row < rows)[:, None] & (channels < CHANNELS)[None, :]
    tl.store(
        result + row[:, None] * CHANNELS + channels[None, :],
        total.to(result.dtype.element_ty),
        mask=mask,
    )
