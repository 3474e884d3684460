"""What the launches of the fused kernels share, and the forward.

Importing this imports Triton; :mod:`.triton` does so when it is first called.

Shape letters: B rows, N heads, L positions, K key and V value channels a head.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import triton
from axial_d2.ops.axial_attention.triton_blocks import Blocks, default_blocks
from axial_d2.ops.axial_attention.triton_forward import attend
from axial_d2.ops.fused_operators import empty_statistic, empty_tokens
from torch import Tensor

# Offsets inside a tile are 32-bit.
LARGEST_OFFSET = 2**31 - 1
HOPPER_SHARED_MEMORY = 232_448

Strides = tuple[int, int, int]


class Inputs(NamedTuple):
    """The op's arguments, and the arithmetic of :func:`.triton_tiles.product`."""

    query: Tensor
    key: Tensor
    value: Tensor | None
    query_table: Tensor | None
    key_table: Tensor | None
    value_table: Tensor | None
    logit_scale: Tensor | None
    span: int
    query_key: bool
    arithmetic: str

    @property
    def value_channels(self) -> int:
        source = self.value if self.value is not None else self.value_table
        assert source is not None
        return source.shape[-1]


class Call:
    """Arguments of a call in the kernels' terms: tuples of pointers, sizes and constants."""

    def __init__(self, inputs: Inputs, blocks: Blocks | None = None):
        self.inputs = inputs = _addressable(inputs)
        rows, heads, self.length, key_channels = inputs.query.shape
        value_channels = inputs.value_channels
        self.blocks = blocks or default_blocks(
            key_channels,
            value_channels,
            inputs.arithmetic in ("bfloat16", "float16"),
            _shared_memory(inputs.query),
        )
        self.groups = rows * heads
        self.features = (inputs.query, inputs.key, inputs.value)
        self.tables = (inputs.query_table, inputs.key_table, inputs.value_table)
        self.limits = tuple(
            0 if table is None else (table.shape[0] - 1) // 2 for table in self.tables
        )
        local = 0 < inputs.span < 2 * self.length - 1
        self.reach = inputs.span // 2 if local else self.length - 1
        self.key_chunks = triton.cdiv(key_channels, self.blocks.key_chunk)
        self.value_chunks = triton.cdiv(value_channels, self.blocks.value_chunk)
        strides = (*_strides(inputs.query), *_strides(inputs.value))
        unit = math.gcd(16, key_channels, value_channels, *strides)
        #: The varying arguments that every kernel takes, in their order.
        self.sizes = (
            self.groups,
            self.length,
            self.reach,
            *(stride // unit for stride in strides),
            (key_channels, value_channels),
        )
        self.constants: dict[str, Any] = {
            "HEADS": heads,
            "GROUPS": self.blocks.groups,
            "QUERIES": self.blocks.queries,
            "KEYS": self.blocks.keys,
            "BLOCK": self.blocks.queries,
            "KEY_CHANNELS": key_channels,
            "KEY_CHUNK": self.blocks.key_chunk,
            "VALUE_CHANNELS": value_channels,
            "VALUE_CHUNK": self.blocks.value_chunk,
            "CHUNKS": max(self.key_chunks, self.value_chunks),
            "UNIT": unit,
            "KEEP": self.blocks.keep,
            "QUERY_KEY": inputs.query_key,
            "LOCAL": local,
            "ARITHMETIC": inputs.arithmetic,
        }

    def position_blocks(self, size: int) -> int:
        return triton.cdiv(self.length, size)

    @property
    def group_blocks(self) -> int:
        return triton.cdiv(self.groups, self.blocks.groups)

    def launch(self, kernel: Any, programs: int, warps: int, *arguments: Any) -> None:
        """Runs ``programs`` of a kernel; its constants in capitals come from this call."""
        constants = {name: self.constants[name] for name in kernel.arg_names if name.isupper()}
        kernel[(programs,)](*arguments, **constants, **self.blocks.options(warps))


def forward(
    inputs: Inputs, blocks: Blocks | None = None
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Content, position, and the log-sum-exp over log 2 as [B, L, N]."""
    query, channels = inputs.query, inputs.value_channels
    content = None if inputs.value is None else empty_tokens(query, channels)
    position = None if inputs.value_table is None else empty_tokens(query, channels)
    log_sum = empty_statistic(query)
    if log_sum.numel():
        call = Call(inputs, blocks)
        call.launch(
            attend,
            call.group_blocks * call.position_blocks(call.blocks.queries) * call.value_chunks,
            call.blocks.forward_warps,
            call.features,
            call.tables,
            call.limits,
            call.inputs.logit_scale,
            (content, position),
            log_sum,
            *call.sizes,
        )
    return content, position, log_sum


def _addressable(inputs: Inputs) -> Inputs:
    """Inputs that the kernels' offsets reach: copies of those that they do not."""
    query, key, value = inputs.query, inputs.key, inputs.value
    if _strides(query) != _strides(key) or not _reachable(query) or not _reachable(key):
        query, key = query.contiguous(), key.contiguous()
    if value is not None and not _reachable(value):
        value = value.contiguous()
    return inputs._replace(
        query=query,
        key=key,
        value=value,
        query_table=_contiguous(inputs.query_table),
        key_table=_contiguous(inputs.key_table),
        value_table=_contiguous(inputs.value_table),
        logit_scale=_contiguous(inputs.logit_scale),
    )


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _strides(tensor: Tensor | None) -> Strides:
    """Of row, head and position; 0 for what is absent or has one entry."""
    if tensor is None:
        return 0, 0, 0
    row, head, position = (
        stride if size > 1 else 0
        for stride, size in zip(tensor.stride()[:3], tensor.shape[:3], strict=True)
    )
    return row, head, position


def _reachable(tensor: Tensor) -> bool:
    """Whether channels are adjacent and 32 bits address the rows of any one tile."""
    row, head, position = _strides(tensor)
    _, heads, length, channels = tensor.shape
    largest = 64 * row + heads * head + length * position + channels
    return (tensor.stride(3) == 1 or channels == 1) and largest <= LARGEST_OFFSET


def _shared_memory(tensor: Tensor) -> int:
    """Bytes that a program can have on the tensor's device."""
    return _device_shared_memory(tensor.device.index) if tensor.is_cuda else HOPPER_SHARED_MEMORY


@functools.cache
def _device_shared_memory(device: int) -> int:
    return triton.runtime.driver.active.utils.get_device_properties(device)["max_shared_mem"]
