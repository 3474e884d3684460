"""Every implementation equals loops over the equations, and their gradients, in float64."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import pytest
import torch
from axial_d2.ops import local_attention
from axial_d2.ops.local_attention import shifts, terms
from cpu_implementations import ON_CPU
from naive_local_attention import (
    FLOAT64,
    Inputs,
    attention_by_pixel,
    attention_by_query,
    random_inputs,
)
from torch import Tensor
from torch.utils import deterministic

SIZES = ((1, 1), (1, 5), (2, 3), (7, 7), (9, 13))
SPANS = (1, 3, 7)
NAMES = (*Inputs._fields, "logit_scale")
# q·k, q·r, k·r, content, position; at least one of the three and one of the two.
TERMS = [
    present
    for present in itertools.product((True, False), repeat=5)
    if any(present[:3]) and any(present[3:])
]

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
implementations = pytest.mark.parametrize("implementation", ON_CPU)


class Case(NamedTuple):
    inputs: Inputs
    scale: Tensor | None
    span: int
    query_key: bool
    cotangents: list[Tensor]
    outputs: list[Tensor | None]
    gradients: tuple[Tensor | None, ...]


@functools.cache
def expected(
    height: int,
    width: int,
    span: int,
    present: tuple[bool, ...] = (True,) * 5,
    scaled: bool = True,
    images: int = 2,
    heads: int = 2,
) -> Case:
    """What the loops give, computed once for all implementations."""
    torch.manual_seed(height * width)
    inputs = without_terms(random_inputs(height, width, span, images=images, heads=heads), present)
    scale = torch.randn(3, heads, dtype=FLOAT64) if scaled else None
    options = {"span": span, "query_key": present[0]}
    loops = attention_by_pixel(inputs, scale, **options)
    cotangents = [torch.randn_like(output) for output in loops if output is not None]
    leaves, scale_leaf = leaves_of(inputs, scale)
    outputs = attention_by_query(leaves, scale_leaf, **options)
    for by_query, by_loop in zip(outputs, loops, strict=True):
        if by_loop is None:
            assert by_query is None
        else:
            torch.testing.assert_close(by_query.detach(), by_loop, rtol=1e-12, atol=1e-12)
    gradients = gradients_of(outputs, (*leaves, scale_leaf), cotangents)
    return Case(inputs, scale, span, present[0], cotangents, loops, gradients)


def without_terms(inputs: Inputs, present: tuple[bool, ...]) -> Inputs:
    _, query_position, key_position, content, position = present
    return inputs._replace(
        value=inputs.value if content else None,
        query_table=inputs.query_table if query_position else None,
        key_table=inputs.key_table if key_position else None,
        value_table=inputs.value_table if position else None,
    )


def leaves_of(inputs: Inputs, scale: Tensor | None) -> tuple[Inputs, Tensor | None]:
    return inputs.leaves(), None if scale is None else scale.clone().requires_grad_()


def gradients_of(
    outputs: list[Tensor | None], leaves: tuple[Tensor | None, ...], cotangents: list[Tensor]
) -> tuple[Tensor | None, ...]:
    """One for each leaf, zeros where nothing depends on it, None where there is none."""
    given = [leaf for leaf in leaves if leaf is not None]
    gradients = iter(
        torch.autograd.grad(
            [output for output in outputs if output is not None],
            given,
            cotangents,
            materialize_grads=True,
        )
    )
    return tuple(None if leaf is None else next(gradients) for leaf in leaves)


def check(case: Case, implementation: str) -> None:
    leaves, scale = leaves_of(case.inputs, case.scale)
    outputs = local_attention(*leaves, scale, case.span, implementation, case.query_key)
    for name, got, want in zip(("content", "position"), outputs, case.outputs, strict=True):
        compare(name, got, want)
    gradients = gradients_of(outputs, (*leaves, scale), case.cotangents)
    for name, got, want in zip(NAMES, gradients, case.gradients, strict=True):
        compare(f"gradient of {name}", got, want)


def compare(name: str, got: Tensor | None, want: Tensor | None) -> None:
    if want is None:
        assert got is None, name
    else:
        close(got.detach(), want, msg=lambda text: f"{name}: {text}")


@implementations
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equals_loops(height: int, width: int, span: int, implementation: str) -> None:
    check(expected(height, width, span), implementation)


@implementations
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("present", TERMS)
def test_any_terms_may_be_absent(
    present: tuple[bool, ...], scaled: bool, implementation: str
) -> None:
    check(expected(3, 4, 3, present, scaled), implementation)


@implementations
def test_without_scales_all_terms_count_once(implementation: str) -> None:
    check(expected(7, 7, 3, scaled=False), implementation)


@pytest.mark.parametrize("matrix_cost", [0, 1 << 40])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_by_offset_or_as_a_matrix_is_the_same(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, matrix_cost: int
) -> None:
    """Each way at all sizes, not only where it is the faster."""
    monkeypatch.setattr(shifts, "MATRIX_COST", matrix_cost)
    check(expected(height, width, 3), "blocked")


@pytest.mark.parametrize("matrix_cost", [0, 1 << 40])
@pytest.mark.parametrize("positions", [1, 17, 60, 200, 400, 1 << 20])
def test_block_size_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, positions: int, matrix_cost: int
) -> None:
    """One row a block, some that do not divide the image, the heads or the images, and all."""
    monkeypatch.setattr(shifts, "MATRIX_COST", matrix_cost)
    monkeypatch.setattr(terms, "BLOCK_BYTES", positions * 3 * 3 * 8)
    check(expected(5, 6, 3, images=3, heads=3), "blocked")


@pytest.mark.parametrize("positions", [1, 1 << 20])
def test_reads_no_memory_it_has_not_written(
    monkeypatch: pytest.MonkeyPatch, positions: int
) -> None:
    """With every ``torch.empty`` full of NaN, as fresh memory may be."""
    monkeypatch.setattr(terms, "BLOCK_BYTES", positions * 3 * 3 * 8)
    assert deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        check(expected(9, 13, 3), "blocked")
    finally:
        torch.use_deterministic_algorithms(False)


@implementations
@pytest.mark.parametrize("height", [2, 5])
def test_gradients_by_finite_differences(height: int, implementation: str) -> None:
    leaves, scale = leaves_of(
        random_inputs(height, 3, 3, images=1), torch.randn(3, 2, dtype=FLOAT64)
    )
    function = functools.partial(local_attention, span=3, implementation=implementation)
    assert torch.autograd.gradcheck(function, (*leaves, scale))


@pytest.mark.parametrize("used", [0, 1])
def test_one_output_alone_may_be_used(used: int) -> None:
    case = expected(7, 7, 3)
    gradients = []
    for implementation in ON_CPU:
        leaves, scale = leaves_of(case.inputs, case.scale)
        output = local_attention(*leaves, scale, case.span, implementation)[used]
        # The sum's gradient is expanded, not contiguous.
        gradients.append(
            torch.autograd.grad(output.sum(), (*leaves, scale), materialize_grads=True)
        )
    for implementation, others in zip(ON_CPU[1:], gradients[1:], strict=True):
        for name, got, want in zip(NAMES, others, gradients[0], strict=True):
            compare(f"{implementation}, gradient of {name}", got, want)


@pytest.mark.parametrize("implementation", ON_CPU[1:])
@pytest.mark.parametrize("trainable", range(7), ids=NAMES)
def test_one_input_alone_may_be_trained(trainable: int, implementation: str) -> None:
    case = expected(7, 7, 3)
    tensors = [*case.inputs, case.scale]
    tensors[trainable] = leaf = tensors[trainable].clone().requires_grad_()
    outputs = local_attention(*tensors, span=3, implementation=implementation)
    (gradient,) = torch.autograd.grad(outputs, [leaf], case.cotangents)
    close(gradient, case.gradients[trainable])


@implementations
@pytest.mark.parametrize("order", [(0, 1, 4, 2, 3), (3, 2, 1, 0, 4), (4, 3, 2, 1, 0)])
def test_memory_layout_of_the_inputs_does_not_matter(
    order: tuple[int, ...], implementation: str
) -> None:
    """First as the layers pass them: channels before positions, cut from one projection."""
    case = expected(7, 7, 3)
    back = [order.index(dim) for dim in range(5)]
    features = [tensor.permute(order).contiguous().permute(back) for tensor in case.inputs[:3]]
    assert not any(tensor.is_contiguous() for tensor in features)
    tables = [tensor.permute(2, 1, 0).contiguous().permute(2, 1, 0) for tensor in case.inputs[3:]]
    check(case._replace(inputs=Inputs(*features, *tables)), implementation)


@pytest.mark.parametrize("implementation", ON_CPU[1:])
def test_second_derivatives_are_refused(implementation: str) -> None:
    leaves = random_inputs(3, 3, 3).leaves()
    content, _ = local_attention(*leaves, span=3, implementation=implementation)
    (gradient,) = torch.autograd.grad(content.square().sum(), leaves.query, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()
