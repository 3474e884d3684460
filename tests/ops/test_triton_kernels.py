"""Runs ``fused_*kernels.py``, each in a process of its own: interpreted, and on a GPU if any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from axial_d2.ops.triton_support import FOUND

FOLDER = Path(__file__).parent
cases = pytest.mark.parametrize("name", ["fused_kernels.py", "fused_local_kernels.py"])
needs_triton = pytest.mark.skipif(not FOUND, reason="the package triton is not installed")


def run_cases(name: str, **environment: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(FOLDER / name)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " skipped" not in result.stdout


@cases
@needs_triton
def test_interpreted_on_the_cpu(name: str) -> None:
    run_cases(name, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@cases
@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_the_gpu(name: str) -> None:
    run_cases(name, TRITON_INTERPRET="0")
