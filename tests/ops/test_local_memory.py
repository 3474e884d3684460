"""The blocked implementation keeps no window's copy and no logits, in time or for the backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from axial_d2.ops import local_attention, local_logit_moments
from axial_d2.ops.local_attention import terms
from naive_local_attention import random_inputs
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

IMAGES, HEADS, HEIGHT, WIDTH, KEY, VALUE = 4, 2, 24, 20, 4, 8
QUERIES = IMAGES * HEADS * HEIGHT * WIDTH
FEATURES = QUERIES * (2 * KEY + VALUE)


def run(span: int, implementation: str, moments: bool = False, scaled: bool = False) -> Tensor:
    inputs = random_inputs(
        HEIGHT, WIDTH, span, images=IMAGES, heads=HEADS, key_channels=KEY, value_channels=VALUE
    )
    leaves = inputs.to(torch.float32).leaves()
    if moments:
        result = local_logit_moments(*leaves[:2], *leaves[3:5], span, implementation)
        return (result.mean + result.variance).sum()
    scale = torch.randn(3, HEADS, requires_grad=True) if scaled else None
    outputs = local_attention(*leaves, scale, span, implementation)
    return sum(output.sum() for output in outputs)


def saved_bytes(*arguments: Any, **options: Any) -> int:
    """Bytes of the distinct memory that the graph keeps for the backward."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run(*arguments, **options)
    del result
    return sum(storages.values())


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


@pytest.mark.parametrize("options", [{}, {"scaled": True}, {"moments": True}])
def test_saved_memory_does_not_grow_with_the_span(options: dict[str, bool]) -> None:
    """But for the tables themselves."""
    narrow, wide = (saved_bytes(span, "blocked", **options) for span in (3, 9))
    tables = 4 * (9 * 9 - 3 * 3) * (2 * KEY + VALUE)
    assert wide - narrow <= 2 * tables


@pytest.mark.parametrize("span", [3, 9])
def test_saved_memory_is_the_inputs_and_one_number_a_query(span: int) -> None:
    tables = span * span * (2 * KEY + VALUE)
    assert saved_bytes(span, "blocked") <= 4 * (FEATURES + QUERIES + 2 * tables)
    # Queries and keys once more for each scale.
    scaled = FEATURES + QUERIES * (1 + 3 * KEY) + 2 * tables
    assert saved_bytes(span, "blocked", scaled=True) <= 4 * (scaled + 100)
    assert saved_bytes(span, "blocked", moments=True) <= 4 * (FEATURES + 2 * tables + 100)


@pytest.mark.parametrize("moments", [False, True])
def test_the_measure_sees_the_copies_of_the_reference(moments: bool) -> None:
    assert saved_bytes(9, "reference", moments) >= 4 * 9 * 9 * KEY * QUERIES


@pytest.mark.parametrize("moments", [False, True])
def test_nothing_in_forward_or_backward_is_the_size_of_the_logits(
    monkeypatch: pytest.MonkeyPatch, moments: bool
) -> None:
    block = 1 << 16
    monkeypatch.setattr(terms, "BLOCK_BYTES", block)
    sizes = {}
    for implementation in ("blocked", "reference"):
        with LargestResult() as largest:
            run(9, implementation, moments).backward()
        sizes[implementation] = largest.numel
    assert sizes["reference"] >= 9 * 9 * KEY * QUERIES
    # A block's k·r has the rows around it as well: nine times itself if it is a single row.
    assert sizes["blocked"] <= max(9 * block // 4, VALUE * QUERIES)
    assert sizes["blocked"] < 9 * 9 * QUERIES // 4
