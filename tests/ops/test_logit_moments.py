"""Moments of the three logit terms equal those of the logits one by one."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from axial_d2.ops import logit_moments
from axial_d2.ops.axial_attention import blocks
from cpu_implementations import ON_CPU
from naive_attention import (
    Inputs,
    moments_by_query,
    moments_by_triple_loop,
    random_inputs,
)
from torch import Tensor

USED = ("query", "key", "query_table", "key_table")

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


class Case(NamedTuple):
    inputs: Inputs
    cotangents: tuple[Tensor, Tensor]
    mean: Tensor
    variance: Tensor
    count: int
    gradients: tuple[Tensor, ...]


@functools.cache
def expected(length: int, span: int, rows: int, key_channels: int, max_span: int) -> Case:
    torch.manual_seed(length)
    inputs = random_inputs(length, rows=rows, key_channels=key_channels, max_span=max_span)
    mean, variance, count = moments_by_triple_loop(inputs, span)
    cotangents = torch.randn_like(mean), torch.randn_like(variance)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    outputs = moments_by_query(Inputs(*leaves), span)
    for by_query, by_loop in zip(outputs, (mean, variance), strict=True):
        torch.testing.assert_close(by_query.detach(), by_loop, rtol=1e-11, atol=1e-11)
    used = [leaves[Inputs._fields.index(name)] for name in USED]
    return Case(
        inputs, cotangents, mean, variance, count, torch.autograd.grad(outputs, used, cotangents)
    )


def check(case: Case, span: int, implementation: str) -> None:
    leaves = [getattr(case.inputs, name).clone().requires_grad_() for name in USED]
    moments = logit_moments(*leaves, span=span, implementation=implementation)
    close(moments.mean.detach(), case.mean)
    close(moments.variance.detach(), case.variance)
    assert moments.count == case.count
    gradients = torch.autograd.grad((moments.mean, moments.variance), leaves, case.cotangents)
    for name, got, want in zip(USED, gradients, case.gradients, strict=True):
        close(got, want, msg=lambda text, name=name: f"gradient of {name}: {text}")


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("max_span", [3, 140])
@pytest.mark.parametrize("span", [1, 3, 65, 0])
@pytest.mark.parametrize("length", [1, 2, 7, 65, 130])
def test_equals_mean_and_variance(
    length: int, span: int, max_span: int, implementation: str
) -> None:
    check(expected(length, span, 2, 2, max_span), span, implementation)


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize(
    ("length", "rows", "key_channels"), [(3, 2, 9), (3, 12, 9), (9, 2, 9), (1, 3, 4)]
)
def test_more_channels_than_positions(
    length: int, rows: int, key_channels: int, implementation: str
) -> None:
    """Closed forms go through the smaller of two Gram matrices; both sides of each choice."""
    check(expected(length, 0, rows, key_channels, 255), 0, implementation)


@pytest.mark.parametrize("block_bytes", [1, 2000, 1 << 40])
@pytest.mark.parametrize("span", [3, 0])
def test_block_size_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, span: int
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(blocks, "MIN_CHUNK_QUERIES", 2)
    check(expected(7, span, 5, 2, 255), span, "blocked")


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("span", [5, 0])
@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_float32_variance_when_the_mean_dominates(
    offset: float, span: int, implementation: str
) -> None:
    """Features of unit variance around ``offset``, as a norm's bias makes them."""
    inputs = random_inputs(33, rows=64, heads=8, key_channels=8)
    query, key = inputs.query + offset, inputs.key + offset
    tables = inputs.query_table, inputs.key_table
    exact = logit_moments(query, key, *tables, span=span, implementation="reference").variance
    single = logit_moments(
        *(tensor.float() for tensor in (query, key, *tables)),
        span=span,
        implementation=implementation,
    ).variance
    error = ((single.double() - exact) / exact).abs().amax(1)
    assert error.max() < 1e-4, f"relative errors of q·k, q·r, k·r: {error.tolist()}"


@pytest.mark.parametrize("implementation", ON_CPU)
def test_variance_is_never_negative(implementation: str) -> None:
    """Constant features have none, and rounding must not turn that into a NaN."""
    inputs = random_inputs(33, dtype=torch.float32)
    constant = torch.full_like(inputs.query, 7.3), torch.full_like(inputs.key, 5.1)
    for span in (0, 5):
        moments = logit_moments(
            *constant, inputs.query_table, inputs.key_table, span, implementation
        )
        assert (moments.variance >= 0).all()
