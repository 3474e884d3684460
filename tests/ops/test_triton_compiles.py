"""The fused kernels compile for GPUs, without one: legal products, few enough resources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from axial_d2.ops.triton_support import FOUND

PROGRAM = Path(__file__).with_name("compile_kernels.py")
KERNELS = {
    "attend",
    "sum_products",
    "query_gradient",
    "key_and_value_gradient",
    "table_gradient_parts",
    "sum_table_parts",
}

pytestmark = pytest.mark.skipif(not FOUND, reason="the package triton is not installed")


@pytest.mark.parametrize(
    ("capability", "shared_memory", "arguments"),
    [
        # Bytes that one program can have on an A100, a GeForce RTX 4090 and an H100.
        (80, 166_912, ["8", "16", "float32", "33"]),
        (89, 101_376, ["4", "8", "tf32", "0", "query_key", "value", "logit_scale"]),
        (90, 232_448, ["64", "128", "bfloat16", "0"]),
    ],
)
def test_compiles(
    capability: int, shared_memory: int, arguments: list[str], tmp_path: Path
) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, str(PROGRAM), str(capability), str(shared_memory), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    kernels = [json.loads(line) for line in result.stdout.splitlines()]
    assert {kernel["name"] for kernel in kernels} == KERNELS
    for kernel in kernels:
        assert kernel["machine_code"] > 0
        assert kernel["shared_memory"] <= shared_memory, kernel
        if kernel["name"] not in ("sum_products", "sum_table_parts"):
            assert kernel["products"] >= 3
            assert kernel["smallest"] >= 16, kernel
        # Other axes of a grid end at 65,535.
        assert all(size <= 65_535 for size in kernel["grid"][1:])
