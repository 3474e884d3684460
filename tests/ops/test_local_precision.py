"""Precisions below float64, autocast, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from axial_d2.ops import local_attention, local_logit_moments
from axial_d2.ops.local_attention import IMPLEMENTATION_CHOICES
from cpu_implementations import ON_CPU
from naive_local_attention import Inputs, random_inputs
from torch import Tensor

SIZE = (9, 13)
SPAN = 5
implementations = pytest.mark.parametrize("implementation", ON_CPU)


def outputs_and_gradients(
    inputs: Inputs, implementation: str, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    leaves = inputs.to(dtype).leaves()
    outputs = local_attention(*leaves, span=SPAN, implementation=implementation)
    loss = sum(output.square().sum() for output in outputs)
    return [*(output.detach() for output in outputs), *torch.autograd.grad(loss, leaves)]


def relative_error(got: Tensor, want: Tensor) -> float:
    return ((got.to(want.dtype) - want).norm() / want.norm()).item()


@implementations
@pytest.mark.parametrize("size", [(4, 5), (40, 30)])
def test_float32_is_within_1e_4_of_float64(size: tuple[int, int], implementation: str) -> None:
    inputs = random_inputs(*size, SPAN, images=3, key_channels=8, value_channels=16)
    exact = outputs_and_gradients(inputs, "reference")
    single = outputs_and_gradients(inputs, implementation, torch.float32)
    assert max(map(relative_error, single, exact)) < 1e-4


@implementations
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_and_out_computes_in_float32(
    dtype: torch.dtype, implementation: str
) -> None:
    rounded = random_inputs(*SIZE, SPAN).to(dtype)
    outputs = local_attention(*rounded, span=SPAN, implementation=implementation)
    exact = local_attention(*rounded.to(torch.float64), span=SPAN)
    for got, want in zip(outputs, exact, strict=True):
        assert got.dtype == dtype
        # Nothing but the rounding of the result.
        assert relative_error(got, want) < torch.finfo(dtype).eps


@implementations
def test_output_has_the_dtype_of_the_value(implementation: str) -> None:
    inputs = random_inputs(*SIZE, SPAN).to(torch.float32)
    value = inputs.value.bfloat16()
    outputs = local_attention(
        *inputs[:2], value, *inputs[3:], span=SPAN, implementation=implementation
    )
    assert [output.dtype for output in outputs] == [torch.bfloat16] * 2
    _, position = local_attention(inputs.query.half(), *inputs._replace(value=None)[1:], span=SPAN)
    assert position.dtype == torch.float16


@implementations
def test_autocast_does_not_lower_the_precision_inside(implementation: str) -> None:
    inputs = random_inputs(*SIZE, SPAN).to(torch.float32)

    def results() -> list[Any]:
        return [
            local_attention(*inputs, span=SPAN, implementation=implementation),
            local_logit_moments(*inputs[:2], *inputs[3:5], SPAN, implementation),
        ]

    outside = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = results()
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


@implementations
def test_backward_inside_autocast(implementation: str) -> None:
    """Not recommended by torch, but its own operators bear it."""
    inputs = random_inputs(*SIZE, SPAN)
    outside = outputs_and_gradients(inputs, implementation, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = outputs_and_gradients(inputs, implementation, torch.float32)
    assert max(map(relative_error, inside, outside)) < 1e-2


def call(function: str, inputs: Inputs, **arguments: Any) -> None:
    if function == "local_attention":
        local_attention(*inputs, **arguments)
    else:
        local_logit_moments(*inputs[:2], *inputs[3:5], **arguments)


both = pytest.mark.parametrize("function", ["local_attention", "local_logit_moments"])


@both
@pytest.mark.parametrize("span", [0, 2, 64, -1])
def test_span_must_be_odd_and_positive(function: str, span: int) -> None:
    with pytest.raises(ValueError, match=rf'span {span} .*odd and at least 1.*"global"'):
        call(function, random_inputs(3, 3), span=span)


@both
def test_unknown_implementation(function: str) -> None:
    with pytest.raises(ValueError, match="'cuda' is unknown") as error:
        call(function, random_inputs(3, 3), implementation="cuda")
    for choice in IMPLEMENTATION_CHOICES:
        assert repr(choice) in str(error.value)


@both
@pytest.mark.parametrize("name", ["query_table", "key_table"])
@pytest.mark.parametrize("shape", [(7, 7, 3), (7, 5, 2), (9, 9, 2), (49, 2)])
def test_tables_must_fit(function: str, name: str, shape: tuple[int, ...]) -> None:
    inputs = random_inputs(3, 3)._replace(**{name: torch.zeros(shape)})
    with pytest.raises(ValueError, match=rf"{name} has shape .*must be \[7, 7, 2\]"):
        call(function, inputs)


def test_value_table_must_fit() -> None:
    inputs = random_inputs(3, 3)._replace(value_table=torch.zeros(7, 7, 2))
    with pytest.raises(ValueError, match=r"value_table has shape .*must be \[7, 7, 3\]"):
        local_attention(*inputs)
    with pytest.raises(ValueError, match=r"value_table has shape .*must be \[5, 5, channels\]"):
        local_attention(*inputs._replace(value=None, query_table=None, key_table=None), span=5)


@both
def test_query_and_key_must_have_one_shape(function: str) -> None:
    inputs = random_inputs(3, 3)
    with pytest.raises(ValueError, match=r"query has shape .* and key .*must"):
        call(function, inputs._replace(key=inputs.key[:, :, :2]))


def test_value_must_lie_on_the_same_image() -> None:
    inputs = random_inputs(3, 3)
    with pytest.raises(ValueError, match="value has shape"):
        local_attention(*inputs._replace(value=inputs.value[:, :, :2]))


def test_something_must_be_weighed_and_retrieved() -> None:
    inputs = random_inputs(3, 3)
    with pytest.raises(ValueError, match="at least one logit term"):
        local_attention(*inputs[:3], query_key=False)
    with pytest.raises(ValueError, match="retrieves nothing"):
        local_attention(*inputs[:2], None)
