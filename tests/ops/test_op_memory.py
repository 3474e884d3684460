"""The blocked implementation never holds the logit maps of a whole batch.

What a row needs grows with L; what grows with L² exists once, not once a row.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from axial_d2.ops import axial_attention, logit_moments
from axial_d2.ops.axial_attention import blocks
from naive_attention import random_inputs
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

ROWS, HEADS, KEY, VALUE = 64, 2, 4, 8


def run(
    length: int, span: int, implementation: str, moments: bool = False, rows: int = ROWS
) -> Tensor:
    inputs = random_inputs(
        length, rows=rows, heads=HEADS, key_channels=KEY, value_channels=VALUE, max_span=length
    )
    leaves = [tensor.float().requires_grad_() for tensor in inputs]
    if moments:
        result = logit_moments(*leaves[:2], *leaves[3:5], span, implementation)
        return (result.mean + result.variance).sum()
    scale = torch.randn(3, HEADS, requires_grad=True)
    return sum(output.sum() for output in axial_attention(*leaves, scale, span, implementation))


def saved_sizes(*arguments: Any, **options: Any) -> list[int]:
    """Elements of each tensor that the graph keeps for the backward."""
    sizes = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run(*arguments, **options)
    return sizes


class LargestResult(TorchDispatchMode):
    """Elements of the largest storage any operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numel = max(self.numel, storage)
        return result


@pytest.mark.parametrize("span", [0, 5])
def test_attention_saves_memory_linear_in_the_length_for_each_row(span: int) -> None:
    def saved_a_row(length: int) -> float:
        few, many = (sum(saved_sizes(length, span, "blocked", rows=rows)) for rows in (8, 24))
        return (many - few) / 16

    assert saved_a_row(80) == 2 * saved_a_row(40)
    # Query and key twice, with and without scales, and value; twice that would be too much.
    assert saved_a_row(80) <= HEADS * 80 * 2 * (4 * KEY + VALUE)


@pytest.mark.parametrize("span", [0, 5])
def test_largest_saved_tensor_has_no_row_and_query_and_key(span: int) -> None:
    length = 80
    largest = max(saved_sizes(length, span, "blocked"))
    assert largest <= length * VALUE * max(ROWS * HEADS, length)


@pytest.mark.parametrize("span", [0, 5])
def test_moments_save_no_map(span: int) -> None:
    largest = max(saved_sizes(80, span, "blocked", moments=True))
    assert largest <= 80 * VALUE * max(ROWS * HEADS, 80)


@pytest.mark.parametrize("moments", [False, True])
def test_the_measure_sees_the_maps_of_the_reference(moments: bool) -> None:
    assert max(saved_sizes(80, 0, "reference", moments)) >= ROWS * HEADS * 80 * 80


@pytest.mark.parametrize("moments", [False, True])
@pytest.mark.parametrize("span", [0, 5])
def test_nothing_in_forward_or_backward_is_the_size_of_a_map(
    monkeypatch: pytest.MonkeyPatch, span: int, moments: bool
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    sizes = {}
    for implementation in ("blocked", "reference"):
        with LargestResult() as largest:
            run(80, span, implementation, moments).backward()
        sizes[implementation] = largest.numel
    whole_map = ROWS * HEADS * 80 * 80
    assert sizes["reference"] >= whole_map
    assert sizes["blocked"] <= whole_map // 4
