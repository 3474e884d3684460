"""Terms left out, for ablations: what remains equals the loops with that term's factor at 0."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import pytest
import torch
from axial_d2.ops import axial_attention, logit_moments
from cpu_implementations import ON_CPU
from naive_attention import (
    FLOAT64,
    Inputs,
    attention_by_query,
    attention_by_triple_loop,
    moments_by_query,
    random_inputs,
)
from torch import Tensor

Flags = tuple[bool, ...]
# q·k, q·r and k·r, at least one of them; content and position, at least one of them.
LOGITS: list[Flags] = [f for f in itertools.product([True, False], repeat=3) if any(f)]
RETRIEVED: list[Flags] = [f for f in itertools.product([True, False], repeat=2) if any(f)]
LENGTH, MAX_SPAN = 6, 4  # the axis is longer than the tables

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def names(flags: Flags, terms: tuple[str, ...]) -> str:
    return "+".join(itertools.compress(terms, flags))


logits_cases = pytest.mark.parametrize(
    "logits", LOGITS, ids=[names(flags, ("qk", "qr", "kr")) for flags in LOGITS]
)
retrieved_cases = pytest.mark.parametrize(
    "retrieved", RETRIEVED, ids=[names(flags, ("content", "position")) for flags in RETRIEVED]
)
implementations = pytest.mark.parametrize("implementation", ON_CPU)


class Case(NamedTuple):
    inputs: Inputs
    scale: Tensor
    cotangents: tuple[Tensor, Tensor]
    outputs: tuple[Tensor, Tensor]


def leaves_of(*tensors: Tensor) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]


def without(scale: Tensor, logits: Flags) -> Tensor:
    """The factors with those of absent terms at 0."""
    return scale * scale.new_tensor(logits)[:, None]


@functools.cache
def expected(logits: Flags, span: int) -> Case:
    torch.manual_seed(7)
    inputs = random_inputs(LENGTH, max_span=MAX_SPAN)
    scale = torch.randn(3, 2, dtype=FLOAT64)
    cotangents = torch.randn_like(inputs.value), torch.randn_like(inputs.value)
    outputs = attention_by_triple_loop(inputs, without(scale, logits), span)
    return Case(inputs, scale, cotangents, outputs)


def arguments(inputs: Inputs, logits: Flags, retrieved: Flags) -> tuple[Tensor | None, ...]:
    """Of the op: query, key, value and tables, None for what is left out."""
    query, key, value, query_table, key_table, value_table = inputs
    return (
        query,
        key,
        value if retrieved[0] else None,
        query_table if logits[1] else None,
        key_table if logits[2] else None,
        value_table if retrieved[1] else None,
    )


def gradients(
    outputs: tuple[Tensor | None, ...], case: Case, retrieved: Flags, leaves: list[Tensor]
) -> tuple[Tensor, ...]:
    """Of the retrieved terms that exist; zeros for inputs that nothing reads."""
    return torch.autograd.grad(
        list(itertools.compress(outputs, retrieved)),
        leaves,
        list(itertools.compress(case.cotangents, retrieved)),
        materialize_grads=True,
    )


@implementations
@retrieved_cases
@logits_cases
@pytest.mark.parametrize("span", [3, 0])
def test_equals_the_loops(span: int, logits: Flags, retrieved: Flags, implementation: str) -> None:
    case = expected(logits, span)
    leaves = leaves_of(*case.inputs, case.scale)
    outputs = axial_attention(
        *arguments(Inputs(*leaves[:6]), logits, retrieved),
        leaves[6],
        span,
        implementation,
        logits[0],
    )
    for got, want, present in zip(outputs, case.outputs, retrieved, strict=True):
        if present:
            assert got is not None
            close(got.detach(), want)
        else:
            assert got is None
    naive_leaves = leaves_of(*case.inputs, case.scale)
    by_query = attention_by_query(Inputs(*naive_leaves[:6]), without(naive_leaves[6], logits), span)
    for name, got, want in zip(
        (*Inputs._fields, "scale"),
        gradients(outputs, case, retrieved, leaves),
        gradients(by_query, case, retrieved, naive_leaves),
        strict=True,
    ):
        close(got, want, msg=lambda text, name=name: f"gradient of {name}: {text}")


@implementations
@logits_cases
@pytest.mark.parametrize("span", [3, 0])
def test_moments_equal_the_loops_and_are_0_for_absent_terms(
    span: int, logits: Flags, implementation: str
) -> None:
    inputs = expected(logits, span).inputs
    present = torch.tensor(logits, dtype=FLOAT64)[:, None]
    cotangents = torch.randn(2, 3, 2, dtype=FLOAT64).unbind(0)

    naive_leaves = leaves_of(*inputs)
    naive = [part * present for part in moments_by_query(Inputs(*naive_leaves), span)]
    leaves = leaves_of(*inputs)
    query, key, _, *tables, _ = arguments(Inputs(*leaves), logits, (True, True))
    moments = logit_moments(query, key, *tables, span, implementation, logits[0])
    for got, want in zip(moments[:2], naive, strict=True):
        close(got.detach(), want.detach())
    for got, want in zip(
        torch.autograd.grad(moments[:2], leaves, cotangents, materialize_grads=True),
        torch.autograd.grad(naive, naive_leaves, cotangents, materialize_grads=True),
        strict=True,
    ):
        close(got, want)


@implementations
def test_without_scale(implementation: str) -> None:
    inputs = random_inputs(LENGTH, max_span=MAX_SPAN)
    ones = torch.ones(3, 2, dtype=FLOAT64)
    for logits in LOGITS:
        got = axial_attention(
            *arguments(inputs, logits, (True, True)),
            implementation=implementation,
            query_key=logits[0],
        )
        for part, want in zip(got, attention_by_query(inputs, without(ones, logits)), strict=True):
            close(part, want)


@implementations
def test_every_term_absent_but_one_of_each_kind_by_hand(implementation: str) -> None:
    """q·r alone and content alone: offset +1 favoured, every position copies its successor."""
    value = torch.arange(4, dtype=FLOAT64).view(1, 1, 4, 1)
    favour_next = torch.zeros(7, 1, dtype=FLOAT64)
    favour_next[4] = 100.0
    ones = torch.ones_like(value)
    garbage = torch.full_like(value, 1e3) * torch.randn_like(value)  # no term reads the key
    content, position = axial_attention(
        ones,
        garbage,
        value,
        favour_next,
        None,
        None,
        implementation=implementation,
        query_key=False,
    )
    assert content is not None
    close(content.flatten()[:3], torch.tensor([1.0, 2.0, 3.0], dtype=FLOAT64))
    assert position is None


@implementations
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtype_without_values_is_that_of_the_query(dtype: torch.dtype, implementation: str) -> None:
    inputs = random_inputs(LENGTH, dtype=dtype)
    content, position = axial_attention(
        *arguments(inputs, (True, True, True), (False, True)), implementation=implementation
    )
    assert content is None
    assert position is not None
    assert position.dtype == dtype


@implementations
def test_empty_batch(implementation: str) -> None:
    inputs = random_inputs(LENGTH, rows=0)
    content, position = axial_attention(
        *arguments(inputs, (False, True, False), (True, False)),
        implementation=implementation,
        query_key=False,
    )
    assert content is not None
    assert content.shape == (0, 2, LENGTH, 3)
    assert position is None


def test_no_logit_term_is_refused() -> None:
    inputs = arguments(random_inputs(3), (False, False, False), (True, True))
    with pytest.raises(ValueError, match=r"at least one logit term: query_key=True, a query_table"):
        axial_attention(*inputs, query_key=False)
    assert axial_attention(*inputs)[0] is not None  # q·k is a term


def test_nothing_to_retrieve_is_refused() -> None:
    inputs = arguments(random_inputs(3), (True, True, True), (False, False))
    with pytest.raises(ValueError, match=r"retrieves nothing: give a value or a value_table"):
        axial_attention(*inputs)
