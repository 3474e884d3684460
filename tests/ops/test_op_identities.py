"""What must hold whatever the definition says in detail."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from axial_d2.ops import axial_attention, logit_moments
from cpu_implementations import ON_CPU
from naive_attention import FLOAT64, Inputs, random_inputs
from torch import Tensor

LENGTH = 9
close = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)

# fused_kernels.py has the tests of triton.
pytestmark = pytest.mark.parametrize("implementation", ["auto", *ON_CPU])


def test_zero_tables_leave_dot_product_attention(implementation: str) -> None:
    inputs = random_inputs(LENGTH)
    inputs = Inputs(*inputs[:3], *(torch.zeros_like(table) for table in inputs[3:]))
    content, position = axial_attention(*inputs, implementation=implementation)
    want = F.scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, scale=1.0)
    close(content, want)
    assert torch.count_nonzero(position) == 0


def test_equal_logits_average_the_window(implementation: str) -> None:
    """Worked by hand: no query, so the keys of a window weigh the same; span 3, L 4."""
    value = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=FLOAT64).view(1, 1, 4, 1)
    zeros = torch.zeros(1, 1, 4, 1, dtype=FLOAT64)
    no_table = torch.zeros(3, 1, dtype=FLOAT64)
    # offsets -1, 0, 1
    value_table = torch.tensor([[10.0], [20.0], [60.0]], dtype=FLOAT64)
    content, position = axial_attention(
        zeros, zeros, value, no_table, no_table, value_table, span=3, implementation=implementation
    )
    close(content.flatten(), torch.tensor([1.5, 7 / 3, 14 / 3, 6.0], dtype=FLOAT64))
    close(position.flatten(), torch.tensor([40.0, 30.0, 30.0, 15.0], dtype=FLOAT64))


def test_offset_is_key_minus_query(implementation: str) -> None:
    """A table that favours offset +1 makes every position look at its successor."""
    value = torch.arange(4, dtype=FLOAT64).view(1, 1, 4, 1)
    ones, zeros = torch.ones_like(value), torch.zeros_like(value)
    no_table = torch.zeros(7, 1, dtype=FLOAT64)
    favour_next = no_table.clone()
    favour_next[4] = 100.0
    for tables in ((favour_next, no_table), (no_table, favour_next)):
        query, key = (ones, zeros) if tables[0] is favour_next else (zeros, ones)
        content, _ = axial_attention(
            query, key, value, *tables, no_table, implementation=implementation
        )
        close(content.flatten()[:3], torch.tensor([1.0, 2.0, 3.0], dtype=FLOAT64))


@pytest.mark.parametrize("extra", [0, 2, 100])
def test_span_that_covers_the_axis_is_global(implementation: str, extra: int) -> None:
    inputs = random_inputs(LENGTH)
    span = 2 * LENGTH - 1 + extra
    local = axial_attention(*inputs, span=span, implementation=implementation)
    everywhere = axial_attention(*inputs, span=0, implementation=implementation)
    for got, want in zip(local, everywhere, strict=True):
        close(got, want)
    shorter = axial_attention(*inputs, span=span - 2 - extra, implementation=implementation)
    assert not torch.allclose(shorter[0], everywhere[0])
    moments = [
        logit_moments(*_for_moments(inputs), span=span, implementation=implementation)
        for span in (span, 0)
    ]
    close(moments[0].mean, moments[1].mean)
    close(moments[0].variance, moments[1].variance)
    assert moments[0].count == moments[1].count


def test_span_one_copies_the_value(implementation: str) -> None:
    inputs = random_inputs(LENGTH, max_span=LENGTH)
    content, position = axial_attention(*inputs, span=1, implementation=implementation)
    close(content, inputs.value)
    close(position, inputs.value_table[LENGTH - 1].expand_as(position))


@pytest.mark.parametrize("span", [3, 0])
def test_permuting_rows_permutes_the_output(implementation: str, span: int) -> None:
    inputs = random_inputs(LENGTH, rows=5)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = Inputs(*(tensor[order] for tensor in inputs[:3]), *inputs[3:])
    outputs = axial_attention(*inputs, span=span, implementation=implementation)
    for got, want in zip(
        axial_attention(*permuted, span=span, implementation=implementation), outputs, strict=True
    ):
        close(got, want[order])


@pytest.mark.parametrize("span", [3, 0])
def test_mirrored_axis_with_mirrored_tables(implementation: str, span: int) -> None:
    inputs = random_inputs(LENGTH, max_span=4)
    mirrored = Inputs(
        *(tensor.flip(2) for tensor in inputs[:3]), *(table.flip(0) for table in inputs[3:])
    )
    outputs = axial_attention(*inputs, span=span, implementation=implementation)
    for got, want in zip(
        axial_attention(*mirrored, span=span, implementation=implementation), outputs, strict=True
    ):
        close(got.flip(2), want)


def test_long_axis_uses_the_last_row_of_the_table(implementation: str) -> None:
    """The stated rule: the same as a longer table that repeats its ends."""
    inputs = random_inputs(LENGTH, max_span=3)
    extended = [
        torch.cat([table[:1].expand(20, -1), table, table[-1:].expand(20, -1)])
        for table in inputs[3:]
    ]
    for got, want in zip(
        axial_attention(*inputs, implementation=implementation),
        axial_attention(*inputs[:3], *extended, implementation=implementation),
        strict=True,
    ):
        close(got, want)


def test_scales_are_those_of_their_term_and_head(implementation: str) -> None:
    """Scaling q·k and q·r of head 1 alone is scaling its query."""
    inputs = random_inputs(LENGTH)
    scale = torch.ones(3, 2, dtype=FLOAT64)
    scale[:2, 1] = 0.3
    query = inputs.query.clone()
    query[:, 1] *= 0.3
    for got, want in zip(
        axial_attention(*inputs, scale, implementation=implementation),
        axial_attention(query, *inputs[1:], implementation=implementation),
        strict=True,
    ):
        close(got, want)


def test_outputs_are_linear_in_value_and_its_table(implementation: str) -> None:
    inputs = random_inputs(LENGTH)
    doubled = inputs._replace(value=2 * inputs.value, value_table=-3 * inputs.value_table)
    content, position = axial_attention(*inputs, implementation=implementation)
    got = axial_attention(*doubled, implementation=implementation)
    close(got[0], 2 * content)
    close(got[1], -3 * position)


def test_large_logits_do_not_overflow(implementation: str) -> None:
    inputs = random_inputs(LENGTH, dtype=torch.float32)
    inputs = inputs._replace(query=inputs.query * 1e4)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    outputs = axial_attention(*leaves, implementation=implementation)
    gradients = torch.autograd.grad(sum(output.sum() for output in outputs), leaves)
    assert all(tensor.isfinite().all() for tensor in (*outputs, *gradients))


def test_empty_batch(implementation: str) -> None:
    inputs = random_inputs(LENGTH, rows=0)
    for output in axial_attention(*inputs, implementation=implementation):
        assert output.shape == (0, 2, LENGTH, 3)


def _for_moments(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return inputs.query, inputs.key, inputs.query_table, inputs.key_table
