"""The implementations of axial and of local attention that a CPU can run, in any precision."""

from __future__ import annotations

from axial_d2.ops import cpp_library

# tests/ops/test_cpp_kernels.py fails where the C++ kernels could have been built and were not.
ON_CPU = ("reference", "blocked", *(() if cpp_library.obstacle() else ("cpp",)))
