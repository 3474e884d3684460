"""How the blocked implementation divides its work, and its view of the position tables.

Shape letters as in :mod:`.blocked`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# One block's logits should stay in a CPU's cache, yet hold enough groups for products over them;
# a GPU wants few launches.
BLOCK_BYTES = 1 << 20
CUDA_BLOCK_BYTES = 1 << 28
MIN_BLOCK_GROUPS = 8
# Shorter chunks than this make products too small.
MIN_CHUNK_QUERIES = 16


def table_window(table: Tensor, length: int) -> Tensor:
    """Rows of the offsets -(L - 1) … L - 1, clamped to the table: [D, C]."""
    limit = (table.shape[0] - 1) // 2
    if length - 1 <= limit:
        return table[limit - length + 1 : limit + length]
    offsets = torch.arange(1 - length, length, device=table.device)
    return table[offsets.clamp(-limit, limit) + limit]


def relative_embeddings(window: Tensor) -> Tensor:
    """For every position x the embeddings of its partners: [L, C, L] (x, channel, partner).

    ``window`` runs over partner - x from -(L - 1) to L - 1.
    """
    length = (window.shape[0] + 1) // 2
    return window.unfold(0, length, 1).flip(0)


@dataclass(frozen=True)
class Chunk:
    """Consecutive queries and all keys in reach of any of them."""

    queries: slice
    keys: slice

    def outside(self, span: int, device: torch.device) -> Tensor | None:
        """[Q, W] bool, true where the key lies beyond the query's window."""
        if not span:
            return None
        query = torch.arange(self.queries.start, self.queries.stop, device=device)
        key = torch.arange(self.keys.start, self.keys.stop, device=device)
        return (key - query[:, None]).abs() > span // 2

    def pairs(self, span: int) -> int:
        """How many pairs lie inside; no tensor is asked, which torch.compile cannot trace."""
        reach = span // 2
        return sum(
            min(query + reach + 1, self.keys.stop) - max(query - reach, self.keys.start)
            for query in range(self.queries.start, self.queries.stop)
        )


def chunks_of(length: int, span: int) -> list[Chunk]:
    """Chunks of the axis; a span that is long for it leaves one."""
    size = max(MIN_CHUNK_QUERIES, span)
    if not span or size + span > length:
        return [Chunk(slice(0, length), slice(0, length))]
    reach = span // 2
    return [
        Chunk(
            slice(start, min(start + size, length)),
            slice(max(0, start - reach), min(start + size + reach, length)),
        )
        for start in range(0, length, size)
    ]


def block_bytes(query: Tensor) -> int:
    return CUDA_BLOCK_BYTES if query.is_cuda else BLOCK_BYTES


def blocks_of(query: Tensor, chunk: Chunk) -> Iterator[slice]:
    """Slices of groups whose logits fill about ``BLOCK_BYTES``."""
    logits = (chunk.queries.stop - chunk.queries.start) * (chunk.keys.stop - chunk.keys.start)
    size = block_bytes(query) // max(1, logits * query.element_size())
    block = max(MIN_BLOCK_GROUPS, size)
    for start in range(0, len(query), block):
        yield slice(start, start + block)
