"""The fused kernels as an operator of PyTorch.

Importing this imports Triton and registers the operator; :mod:`.triton` does so when it is first
called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from axial_d2.ops.axial_attention import triton_gradients, triton_launch
from axial_d2.ops.axial_attention.triton_launch import Inputs
from axial_d2.ops.fused_operators import Gradients, fused_operator
from torch import Tensor

ARITHMETIC = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


def _allows_tf32() -> bool:
    """PyTorch's own switch, whichever of its two interfaces has been used to set it."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return torch.backends.cuda.matmul.fp32_precision == "tf32"
    return torch.backends.cuda.matmul.allow_tf32


def _inputs(*arguments: Any) -> Inputs:
    exact = "tf32" if _allows_tf32() else "float32"
    return Inputs._make((*arguments, ARITHMETIC.get(arguments[0].dtype, exact)))


def _forward(*arguments: Any) -> tuple[Tensor | None, Tensor | None, Tensor]:
    return triton_launch.forward(_inputs(*arguments))


def _backward(arguments: Sequence[Any], *others: Any) -> Gradients:
    return triton_gradients.backward(_inputs(*arguments), *others)


fused_axial_attention = fused_operator("fused_axial_attention", _forward, _backward)
