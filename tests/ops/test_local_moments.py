"""Moments of the three logit terms equal those of the logits one by one."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from axial_d2.ops import local_logit_moments
from axial_d2.ops.local_attention import terms
from cpu_implementations import ON_CPU
from naive_local_attention import (
    Inputs,
    moments_by_pixel,
    moments_by_query,
    random_inputs,
)
from torch import Tensor

USED = ("query", "key", "query_table", "key_table")

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
implementations = pytest.mark.parametrize("implementation", ON_CPU)


class Case(NamedTuple):
    inputs: Inputs
    span: int
    query_key: bool
    cotangents: tuple[Tensor, Tensor]
    mean: Tensor
    variance: Tensor
    count: int
    gradients: tuple[Tensor, ...]


@functools.cache
def expected(
    height: int,
    width: int,
    span: int,
    present: tuple[bool, bool, bool] = (True, True, True),
    images: int = 2,
) -> Case:
    torch.manual_seed(height * width)
    inputs = random_inputs(height, width, span, images=images)
    inputs = inputs._replace(
        query_table=inputs.query_table if present[1] else None,
        key_table=inputs.key_table if present[2] else None,
    )
    mean, variance, count = moments_by_pixel(inputs, span, present[0])
    cotangents = torch.randn_like(mean), torch.randn_like(variance)
    leaves = inputs.leaves()
    outputs = moments_by_query(leaves, span, present[0])
    for by_query, by_loop in zip(outputs, (mean, variance), strict=True):
        torch.testing.assert_close(by_query.detach(), by_loop, rtol=1e-11, atol=1e-11)
    gradients = torch.autograd.grad(outputs, used(leaves), cotangents, materialize_grads=True)
    return Case(inputs, span, present[0], cotangents, mean, variance, count, gradients)


def used(inputs: Inputs) -> list[Tensor]:
    return [tensor for name in USED if (tensor := getattr(inputs, name)) is not None]


def check(case: Case, implementation: str) -> None:
    leaves = case.inputs.leaves()
    moments = local_logit_moments(
        *(getattr(leaves, name) for name in USED), case.span, implementation, case.query_key
    )
    close(moments.mean.detach(), case.mean)
    close(moments.variance.detach(), case.variance)
    assert moments.count == case.count
    gradients = torch.autograd.grad(
        moments[:2], used(leaves), case.cotangents, materialize_grads=True
    )
    for got, want in zip(gradients, case.gradients, strict=True):
        close(got, want)


@implementations
@pytest.mark.parametrize("span", [1, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (2, 3), (7, 7), (9, 13)])
def test_equals_mean_and_variance(height: int, width: int, span: int, implementation: str) -> None:
    check(expected(height, width, span), implementation)


@implementations
@pytest.mark.parametrize(
    "present", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_absent_terms_are_zero(present: tuple[bool, bool, bool], implementation: str) -> None:
    case = expected(3, 4, 3, present)
    absent = [term for term in range(3) if not present[term]]
    assert not case.mean[absent].any()
    assert not case.variance[absent].any()
    check(case, implementation)


@implementations
def test_no_term_at_all(implementation: str) -> None:
    """Nothing to normalise, which :func:`local_attention` then refuses."""
    query, key, *_ = random_inputs(3, 4)
    moments = local_logit_moments(query, key, implementation=implementation, query_key=False)
    assert not moments.mean.any()
    assert not moments.variance.any()


@pytest.mark.parametrize("positions", [1, 17, 60, 200, 1 << 20])
def test_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    monkeypatch.setattr(terms, "BLOCK_BYTES", positions * 3 * 3 * 8)
    check(expected(5, 6, 3, images=3), "blocked")


@implementations
@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_float32_variance_when_the_mean_dominates(
    monkeypatch: pytest.MonkeyPatch, offset: float, implementation: str
) -> None:
    """Features of unit variance around ``offset``, as a norm's bias makes them."""
    monkeypatch.setattr(terms, "BLOCK_BYTES", 1 << 14)
    inputs = random_inputs(12, 13, 5, images=8, heads=4, key_channels=8)
    query, key = inputs.query + offset, inputs.key + offset
    tables = inputs.query_table, inputs.key_table
    exact = local_logit_moments(query, key, *tables, 5, "reference").variance
    single = local_logit_moments(
        *(tensor.float() for tensor in (query, key, *tables)), 5, implementation
    ).variance
    error = ((single.double() - exact) / exact).abs().amax(1)
    assert error.max() < 1e-4, f"relative errors of q·k, q·r, k·r: {error.tolist()}"


@implementations
def test_variance_is_never_negative(implementation: str) -> None:
    """Constant features have none, and rounding must not turn that into a NaN."""
    inputs = random_inputs(9, 13, 5).to(torch.float32)
    constant = torch.full_like(inputs.query, 7.3), torch.full_like(inputs.key, 5.1)
    moments = local_logit_moments(*constant, *inputs[3:5], 5, implementation)
    assert (moments.variance >= 0).all()
