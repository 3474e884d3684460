"""Runs ``fused_kernels.py`` in a process of its own: interpreted, and on a GPU if there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from axial_d2.ops.triton_support import FOUND

CASES = Path(__file__).with_name("fused_kernels.py")
needs_triton = pytest.mark.skipif(not FOUND, reason="the package triton is not installed")


def run_cases(**environment: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CASES)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " skipped" not in result.stdout


@needs_triton
def test_interpreted_on_the_cpu() -> None:
    run_cases(TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_the_gpu() -> None:
    run_cases(TRITON_INTERPRET="0")
