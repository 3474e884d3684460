"""Compiles the fused kernels to machine code without a GPU; run by ``test_triton_compiles.py``.

The launches are the real ones, up to the point where a driver would start the program: what the
interpreter accepts and a GPU refuses shows here. Prints a line of JSON for each kernel.

Usage: compile_kernels.py CAPABILITY SHARED_MEMORY KEY_CHANNELS VALUE_CHANNELS KIND SPAN [MISSING …]
"""

from __future__ import annotations

import json
import re
import sys

import torch
import triton
from axial_d2.ops.axial_attention import triton_launch
from axial_d2.ops.axial_attention.triton_gradients import backward
from axial_d2.ops.axial_attention.triton_launch import Inputs, forward
from axial_d2.ops.fused_operators import Saved
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

LENGTH, ROWS, HEADS = 65, 3, 8


class CompilingDriver:
    """What Triton asks a driver before it launches."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_instead_of_launching() -> None:
    run = JITFunction.run

    def compile_and_report(self, *arguments, grid, warmup, **options):
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        report(self.__name__, grid, kernel)
        return kernel

    JITFunction.run = compile_and_report


def report(name: str, grid: tuple[int, ...], kernel) -> None:
    # … = tt.dot %a, %b, %c … : tensor<16x16x32xf32> * tensor<16x32x16xf32> -> …
    products = re.findall(
        r"tt\.dot .*: tensor<([\dx]+)x\w+> \* tensor<([\dx]+)x\w+>", kernel.asm["ttir"]
    )
    sizes = [int(size) for pair in products for shape in pair for size in shape.split("x")]
    found = {
        "name": name,
        "grid": grid,
        "products": len(products),
        "smallest": min(sizes, default=None),
        "shared_memory": kernel.metadata.shared,
        "machine_code": len(kernel.asm["cubin"]),
    }
    print(json.dumps(found))


def main() -> None:
    capability, shared_memory, key, value = map(int, sys.argv[1:5])
    kind, span, missing = sys.argv[5], int(sys.argv[6]), sys.argv[7:]
    triton.runtime.driver.set_active(CompilingDriver(capability))
    compile_instead_of_launching()
    triton_launch._shared_memory = lambda _: shared_memory
    dtype = torch.float32 if kind == "tf32" else getattr(torch, kind)
    inputs = Inputs(
        torch.zeros(ROWS, HEADS, LENGTH, key, dtype=dtype),
        torch.zeros(ROWS, HEADS, LENGTH, key, dtype=dtype),
        torch.zeros(ROWS, HEADS, LENGTH, value, dtype=dtype),
        *(torch.zeros(509, channels) for channels in (key, key, value)),
        torch.ones(3, HEADS),
        span,
        "query_key" not in missing,
        kind,
    )
    inputs = inputs._replace(**{name: None for name in missing if name != "query_key"})
    content, position, log_sum = forward(inputs)
    backward(inputs, Saved(content, position, log_sum), (content, position))


if __name__ == "__main__":
    main()
