"""The implementations of axial and of local attention that a CPU can run, in any precision."""

from __future__ import annotations

import pytest
from axial_d2.ops import cpp_library

BUILT = cpp_library.obstacle() is None
# tests/ops/test_cpp_kernels.py fails where the C++ kernels could have been built and were not.
ON_CPU = ("reference", "blocked", *(("cpp",) if BUILT else ()))
needs_kernels = pytest.mark.skipif(not BUILT, reason="the installation built no C++ kernels")
