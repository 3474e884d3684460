"""Precisions below float64, autocast, and what is refused."""

from __future__ import annotations

import pytest
import torch
from axial_d2.ops import axial_attention, logit_moments
from axial_d2.ops.axial_attention import IMPLEMENTATION_CHOICES
from cpu_implementations import ON_CPU
from naive_attention import Inputs, random_inputs
from torch import Tensor


def outputs_and_gradients(
    inputs: Inputs, implementation: str, span: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
    outputs = axial_attention(*leaves, span=span, implementation=implementation)
    loss = sum(output.square().sum() for output in outputs)
    return [*(output.detach() for output in outputs), *torch.autograd.grad(loss, leaves)]


def relative_error(got: Tensor, want: Tensor) -> float:
    return ((got.to(want.dtype) - want).norm() / want.norm()).item()


@pytest.mark.parametrize("span", [0, 15])
@pytest.mark.parametrize("implementation", ON_CPU)
def test_float32_is_within_1e_4_of_float64(implementation: str, span: int) -> None:
    inputs = random_inputs(65, rows=4, key_channels=8, value_channels=16)
    exact = outputs_and_gradients(inputs, "reference", span)
    single = outputs_and_gradients(inputs, implementation, span, torch.float32)
    assert max(map(relative_error, single, exact)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("implementation", ON_CPU)
def test_half_precision_in_and_out_computes_in_float32(
    implementation: str, dtype: torch.dtype
) -> None:
    rounded = Inputs(*(tensor.to(dtype) for tensor in random_inputs(33)))
    outputs = axial_attention(*rounded, implementation=implementation)
    exact = axial_attention(*(tensor.double() for tensor in rounded))
    for got, want in zip(outputs, exact, strict=True):
        assert got.dtype == dtype
        # Nothing but the rounding of the result.
        assert relative_error(got, want) < torch.finfo(dtype).eps


@pytest.mark.parametrize("implementation", ON_CPU)
def test_autocast_does_not_lower_the_precision_inside(implementation: str) -> None:
    inputs = random_inputs(33, dtype=torch.float32)
    outside = axial_attention(*inputs, implementation=implementation)
    moments = logit_moments(*inputs[:2], *inputs[3:5], implementation=implementation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = axial_attention(*inputs, implementation=implementation)
        moments_inside = logit_moments(*inputs[:2], *inputs[3:5], implementation=implementation)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)
    torch.testing.assert_close(moments_inside, moments, rtol=0, atol=0)


@pytest.mark.parametrize("implementation", ON_CPU)
def test_backward_inside_autocast(implementation: str) -> None:
    """Not recommended by torch, but its own operators bear it."""
    inputs = random_inputs(33, dtype=torch.float32)
    outside = outputs_and_gradients(inputs, implementation, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = outputs_and_gradients(inputs, implementation, dtype=torch.float32)
    assert max(map(relative_error, inside, outside)) < 1e-2


@pytest.mark.parametrize("function", ["axial_attention", "logit_moments"])
@pytest.mark.parametrize(("span", "fault"), [(2, "even"), (64, "even"), (-1, "negative")])
def test_span_must_be_odd_or_zero(function: str, span: int, fault: str) -> None:
    with pytest.raises(ValueError, match=rf"span {span} is {fault}.*odd.*or 0 for global"):
        _call(function, span=span)


@pytest.mark.parametrize("function", ["axial_attention", "logit_moments"])
def test_unknown_implementation(function: str) -> None:
    with pytest.raises(ValueError, match="'cuda' is unknown") as error:
        _call(function, implementation="cuda")
    for choice in IMPLEMENTATION_CHOICES:
        assert repr(choice) in str(error.value)


def _call(function: str, **arguments: object) -> None:
    inputs = random_inputs(5)
    if function == "axial_attention":
        axial_attention(*inputs, **arguments)  # type: ignore[arg-type]
    else:
        logit_moments(*inputs[:2], *inputs[3:5], **arguments)  # type: ignore[arg-type]
