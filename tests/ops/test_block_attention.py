"""Attention inside blocks: every implementation equals a loop, forward and backward."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from axial_d2.ops import block_attention as module
from axial_d2.ops.block_attention import IMPLEMENTATIONS, block_attention
from cpu_implementations import BUILT, needs_kernels
from torch import Tensor

POSITIONS, BLOCKS, HEADS, KEY_CHANNELS, VALUE_CHANNELS, MATRICES = 5, 7, 2, 4, 6, 3
close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)

EACH = [
    pytest.param(name, marks=needs_kernels if name == "kernels" else ()) for name in IMPLEMENTATIONS
]


def arguments(channels: int = 3, blocks: int = BLOCKS, **options: Any) -> list[Tensor]:
    options = {"dtype": torch.float64, "requires_grad": True, **options}
    return [
        torch.randn(POSITIONS, blocks, channels, **options),
        torch.randn(HEADS, KEY_CHANNELS, channels, **options),
        torch.randn(HEADS, KEY_CHANNELS, channels, **options),
        torch.randn(MATRICES, HEADS, VALUE_CHANNELS, channels, **options),
        torch.randn(POSITIONS, MATRICES, **options),
    ]


def some_inside() -> Tensor:
    inside = torch.rand(POSITIONS, BLOCKS) > 0.4
    inside[2] = True  # a block has one position at least
    return inside


def naive(
    features: Tensor,
    query: Tensor,
    key: Tensor,
    values: Tensor,
    mixture: Tensor,
    inside: Tensor | None,
) -> Tensor:
    """[P, G, N, V], zeros where ``inside`` is not."""
    rows = []
    for i in range(len(features)):
        for g in range(features.shape[1]):
            for n in range(len(query)):
                there = [
                    j for j in range(len(features)) if inside is None or inside[[i, j], g].all()
                ]
                logits = [
                    torch.dot(query[n] @ features[i, g], key[n] @ features[j, g]) for j in there
                ]
                total = sum((logit.exp() for logit in logits), torch.zeros(()))
                row = torch.zeros(values.shape[2], dtype=features.dtype)
                for logit, j in zip(logits, there, strict=True):
                    matrix = sum(mixture[j, m] * values[m, n] for m in range(len(values)))
                    row = row + logit.exp() / total * (matrix @ features[j, g])
                rows.append(row)
    return torch.stack(rows).view(*features.shape[:2], *values.shape[1:3])


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("channels", [3, 4, 7])
@pytest.mark.parametrize("implementation", EACH)
def test_equals_the_loop(implementation: str, channels: int, masked: bool) -> None:
    tensors = arguments(channels)
    inside = some_inside() if masked else None
    want = naive(*tensors, inside)
    got = block_attention(*tensors, inside, implementation)
    there = torch.ones(POSITIONS, BLOCKS, dtype=torch.bool) if inside is None else inside
    close(got[there], want[there])
    cotangent = torch.randn_like(want)[there]
    for first, second in zip(
        torch.autograd.grad(got[there], tensors, cotangent),
        torch.autograd.grad(want[there], tensors, cotangent),
        strict=True,
    ):
        close(first, second)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("implementation", EACH)
def test_no_blocks_at_all(implementation: str, masked: bool) -> None:
    tensors = arguments(blocks=0)
    inside = torch.ones(POSITIONS, 0, dtype=torch.bool) if masked else None
    out = block_attention(*tensors, inside, implementation)
    assert out.shape == (POSITIONS, 0, HEADS, VALUE_CHANNELS)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_more_blocks_than_a_gpu_takes_at_once(
    masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 images of 224×224 have more than the 65535 that PyTorch's kernels allow."""
    tensors, inside = arguments(), some_inside() if masked else None
    want = block_attention(*tensors, inside, "fused")
    attention, batches = F.scaled_dot_product_attention, []

    def watched(query: Tensor, *others: Tensor, **options: Any) -> Tensor:
        batches.append(len(query))
        return attention(query, *others, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(module, "MAX_BLOCKS_A_CALL", 3)
    close(block_attention(*tensors, inside, "fused"), want)
    assert batches == [3, 3, 1]


@pytest.mark.parametrize("implementation", EACH)
def test_large_logits_stay_finite_and_a_masked_one_weighs_nothing(implementation: str) -> None:
    features, *weights = arguments(dtype=torch.float32)
    inside = some_inside()
    outside = ~inside[..., None].expand_as(features)
    changed = torch.where(outside, 1e2, features)
    there = inside[..., None, None].expand(POSITIONS, BLOCKS, HEADS, VALUE_CHANNELS)
    first, second = (
        block_attention(each * 5, *weights, inside, implementation)[there]
        for each in (features, changed)
    )
    assert first.isfinite().all()
    torch.testing.assert_close(first, second)


def test_auto_is_the_kernels_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name in IMPLEMENTATIONS:
        monkeypatch.setitem(
            IMPLEMENTATIONS, name, lambda *tensors, name=name: asked.append(name) or tensors[3]
        )
    block_attention(*arguments())
    monkeypatch.setattr(module.cpp, "obstacle", lambda features: "none were built")
    block_attention(*arguments())
    assert asked[-1] == "fused"
    assert asked[0] == ("kernels" if BUILT else "fused")


def test_unknown_implementation_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("implementation 'fast' of block attention")):
        block_attention(*arguments(), implementation="fast")
