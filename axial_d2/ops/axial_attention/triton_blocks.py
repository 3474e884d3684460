"""Shapes of the fused kernels' tiles."""

from __future__ import annotations

import dataclasses

SMALLEST = 16
LARGEST_QUERIES = 64
LARGEST_KEY_CHUNK = 32
LARGEST_VALUE_CHUNK = 64
# Shared memory that programs take that keep their queries there, and half precision's share.
KEPT_BYTES = 150_000


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Shape of the kernels' tiles; every one is a dimension of a product on tensor cores.

    Attributes:
        groups, queries, keys: of a tile, powers of two from 16 on. The table kernel's tiles have
            as many keys as ``queries``, of which there are at most 64.
        key_chunk, value_chunk: channels held at a time, powers of two from 16 on.
        forward_warps, backward_warps: of a program.
        registers: most that a thread may use, or None; fewer let more programs run at once.
        keep: what does not change along a program's loop stays in shared memory; else it is
            loaded again for each tile.
    """

    groups: int = 16
    queries: int = 16
    keys: int = 16
    key_chunk: int = 16
    value_chunk: int = 16
    forward_warps: int = 8
    backward_warps: int = 8
    registers: int | None = 128
    keep: bool = True

    def __post_init__(self) -> None:
        for name in ("groups", "queries", "keys", "key_chunk", "value_chunk"):
            size = getattr(self, name)
            # Tensor cores take no less, and the interpreter would not notice.
            assert size >= SMALLEST, f"{name} is {size}; products need {SMALLEST}"
            assert size & (size - 1) == 0, f"{name} is {size}; Triton needs a power of two"
        assert self.queries <= LARGEST_QUERIES, "the table kernel sorts queries² pairs by offset"

    def options(self, warps: int) -> dict[str, int]:
        """Triton's launch options."""
        options = {"num_warps": warps, "num_stages": 1}
        return options if self.registers is None else {**options, "maxnreg": self.registers}


def default_blocks(
    key_channels: int, value_channels: int, half: bool, shared_memory: int = 232_448
) -> Blocks:
    """Block shapes that compile without much spilling; README.md has the counts behind them.

    None of what depends on the device, ``shared_memory`` in bytes a program, changes a result.

    Args:
        half: factors of 16 bits.
    """
    key_chunk = _chunk(key_channels, LARGEST_KEY_CHUNK)
    value_chunk = _chunk(value_channels, LARGEST_VALUE_CHUNK)
    chunks = key_chunk + value_chunk
    whole = key_channels <= key_chunk and value_channels <= value_chunk
    small = chunks <= (48 if half else 32)
    return Blocks(
        key_chunk=key_chunk,
        value_chunk=value_chunk,
        forward_warps=8 if small else 16,
        backward_warps=8 if small and half else 16,
        keep=whole and small and (half or shared_memory >= KEPT_BYTES),
    )


def _chunk(channels: int, largest: int) -> int:
    return min(largest, max(SMALLEST, 1 << (channels - 1).bit_length()))
