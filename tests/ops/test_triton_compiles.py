"""The fused kernels compile for GPUs, without one: legal products, few enough resources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from axial_d2.ops.triton_support import FOUND

FOLDER = Path(__file__).parent
KERNELS = {
    "attend",
    "sum_products",
    "query_gradient",
    "key_and_value_gradient",
    "table_gradient_parts",
    "sum_table_parts",
}

LOCAL_KERNELS = {"attend", "query_gradient", "key_and_value_gradient", "table_gradient_parts"}

pytestmark = [
    pytest.mark.skipif(not FOUND, reason="the package triton is not installed"),
    pytest.mark.slow,  # a minute; test_triton_kernels.py checks what the kernels compute
]


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
    kernels = compiled(tmp_path, "compile_kernels.py", capability, shared_memory, *arguments)
    assert {kernel["name"] for kernel in kernels} == KERNELS
    for kernel in kernels:
        assert kernel["shared_memory"] <= shared_memory, kernel
        if kernel["name"] not in ("sum_products", "sum_table_parts"):
            assert kernel["products"] >= 3
            assert kernel["smallest"] >= 16, kernel


@pytest.mark.parametrize(
    ("capability", "arguments", "absent"),
    [
        (80, ["64", "128", "bfloat16", "11"], ""),
        (90, ["8", "16", "float32", "7"], ""),
        (90, ["5", "3", "float16", "3", "query_key", "value", "logit_scale"], ""),
        # Stand-alone self-attention without positions has no tables.
        (
            90,
            ["4", "4", "float32", "7", "query_table", "key_table", "value_table"],
            "table_gradient_parts",
        ),
    ],
)
def test_local_compiles(capability: int, arguments: list[str], absent: str, tmp_path: Path) -> None:
    kernels = compiled(tmp_path, "compile_local_kernels.py", capability, *arguments)
    assert {kernel["name"] for kernel in kernels} == LOCAL_KERNELS - {absent}
    # What every GPU has without asking for more.
    assert all(kernel["shared_memory"] <= 48 * 1024 for kernel in kernels)


def compiled(cache: Path, program: str, *arguments: int | str) -> list[dict[str, Any]]:
    """What the program says of its kernels."""
    result = subprocess.run(
        [sys.executable, str(FOLDER / program), *map(str, arguments)],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    kernels = [json.loads(line) for line in result.stdout.splitlines()]
    for kernel in kernels:
        assert kernel["machine_code"] > 0
        # Other axes of a grid end at 65,535.
        assert all(size <= 65_535 for size in kernel["grid"][1:])
    return kernels
