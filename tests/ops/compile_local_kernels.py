"""As ``compile_kernels.py``, of 2-D local attention; run by ``test_triton_compiles.py``.

Usage: compile_local_kernels.py CAPABILITY KEY_CHANNELS VALUE_CHANNELS DTYPE SPAN [MISSING …]
"""

from __future__ import annotations

import sys

import torch
import triton
from axial_d2.ops.fused_operators import Saved
from axial_d2.ops.local_attention.triton_launch import backward, forward
from compile_kernels import CompilingDriver, compile_instead_of_launching

IMAGES, HEADS, HEIGHT, WIDTH = 2, 8, 14, 15
TENSORS = (
    *("query", "key", "value"),
    *("query_table", "key_table", "value_table", "logit_scale"),
)  # fmt: skip


def main() -> None:
    capability, key, value = map(int, sys.argv[1:4])
    dtype, span, missing = getattr(torch, sys.argv[4]), int(sys.argv[5]), sys.argv[6:]
    triton.runtime.driver.set_active(CompilingDriver(capability))
    compile_instead_of_launching()
    projected = torch.zeros(IMAGES, HEADS * (2 * key + value), HEIGHT, WIDTH, dtype=dtype)
    parts = projected.contiguous(memory_format=torch.channels_last).split(
        [HEADS * key, HEADS * key, HEADS * value], dim=1
    )
    features = [part.unflatten(1, (HEADS, -1)).permute(0, 1, 3, 4, 2) for part in parts]
    tables = [torch.zeros(span, span, channels) for channels in (key, key, value)]
    tensors = [
        None if name in missing else tensor
        for name, tensor in zip(TENSORS, (*features, *tables, torch.ones(3, HEADS)), strict=True)
    ]
    arguments = (*tensors, span, "query_key" not in missing)
    content, position, log_sum = forward(*arguments)
    backward(arguments, Saved(content, position, log_sum), (content, position), True, True)


if __name__ == "__main__":
    main()
