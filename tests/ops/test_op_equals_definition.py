"""Every implementation equals a triple loop over eq. 4, and its gradients, in float64."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from axial_d2.ops import axial_attention
from axial_d2.ops.axial_attention import blocks
from cpu_implementations import ON_CPU
from naive_attention import (
    FLOAT64,
    Inputs,
    attention_by_query,
    attention_by_triple_loop,
    random_inputs,
)
from torch import Tensor
from torch.utils import deterministic

LENGTHS = (1, 2, 7, 65, 130)
SPANS = (1, 3, 65, 0)
# Rows to one side: a table shorter than most axes, one just long enough, one to spare.
TABLES = {"short": lambda length: 3, "exact": lambda length: length, "long": lambda length: 140}
NAMES = (*Inputs._fields, "logit_scale")

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


class Case(NamedTuple):
    inputs: Inputs
    scale: Tensor | None
    cotangents: tuple[Tensor, Tensor]
    outputs: tuple[Tensor, Tensor]
    gradients: tuple[Tensor, ...]


@functools.cache
def expected(length: int, span: int, table: str, scaled: bool, rows: int = 2) -> Case:
    """What the loops give, computed once for all implementations."""
    torch.manual_seed(length)
    inputs = random_inputs(length, rows=rows, max_span=TABLES[table](length))
    scale = torch.randn(3, 2, dtype=FLOAT64) if scaled else None
    cotangents = (torch.randn_like(inputs.value), torch.randn_like(inputs.value))
    loops = attention_by_triple_loop(inputs, scale, span)
    leaves = leaves_of(inputs, scale)
    outputs = attention_by_query(Inputs(*leaves[:6]), leaves[6] if scaled else None, span)
    for by_query, by_loop in zip(outputs, loops, strict=True):
        torch.testing.assert_close(by_query.detach(), by_loop, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(outputs, leaves, cotangents)
    return Case(inputs, scale, cotangents, loops, gradients)


def leaves_of(inputs: Inputs, scale: Tensor | None) -> list[Tensor]:
    tensors = [*inputs] if scale is None else [*inputs, scale]
    return [tensor.clone().requires_grad_() for tensor in tensors]


def check(case: Case, span: int, implementation: str) -> None:
    leaves = leaves_of(case.inputs, case.scale)
    outputs = axial_attention(*leaves, span=span, implementation=implementation)
    for name, got, want in zip(("content", "position"), outputs, case.outputs, strict=True):
        close(got.detach(), want, msg=lambda text, name=name: f"{name}: {text}")
    gradients = torch.autograd.grad(outputs, leaves, case.cotangents)
    for name, got, want in zip(NAMES, gradients, case.gradients, strict=False):
        close(got, want, msg=lambda text, name=name: f"gradient of {name}: {text}")


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_triple_loop(length: int, span: int, table: str, implementation: str) -> None:
    check(expected(length, span, table, scaled=True), span, implementation)


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("span", [3, 0])
@pytest.mark.parametrize("length", [1, 7, 65])
def test_without_scales_all_terms_count_once(length: int, span: int, implementation: str) -> None:
    check(expected(length, span, "short", scaled=False), span, implementation)


@pytest.mark.parametrize("span", [3, 0])
@pytest.mark.parametrize("block_bytes", [1, 5000, 1 << 40])
@pytest.mark.parametrize("min_groups", [1, 8])
def test_block_size_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, min_groups: int, block_bytes: int, span: int
) -> None:
    """One group a block, blocks that do not divide the 18 groups, all groups in one block."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(blocks, "MIN_BLOCK_GROUPS", min_groups)
    check(expected(7, span, "short", scaled=True, rows=9), span, "blocked")


@pytest.mark.parametrize("min_queries", [1, 2, 4, 100])
@pytest.mark.parametrize(("length", "span"), [(7, 3), (9, 5), (8, 1)])
def test_chunks_of_the_axis_change_nothing(
    monkeypatch: pytest.MonkeyPatch, length: int, span: int, min_queries: int
) -> None:
    """Chunks that divide the axis, that do not, and a single one."""
    monkeypatch.setattr(blocks, "MIN_CHUNK_QUERIES", min_queries)
    check(expected(length, span, "short", scaled=True), span, "blocked")


@pytest.mark.parametrize("span", [3, 0])
def test_reads_no_memory_it_has_not_written(span: int) -> None:
    """With every ``torch.empty`` full of NaN, as fresh memory may be."""
    assert deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        check(expected(65, span, "short", scaled=True), span, "blocked")
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("implementation", ON_CPU)
def test_gradients_by_finite_differences(implementation: str) -> None:
    leaves = leaves_of(random_inputs(4, max_span=3), torch.randn(3, 2, dtype=FLOAT64))
    assert torch.autograd.gradcheck(
        functools.partial(axial_attention, span=3, implementation=implementation), leaves
    )


@pytest.mark.parametrize("used", [0, 1])
def test_one_output_alone_may_be_used(used: int) -> None:
    case = expected(7, 0, "short", scaled=True)
    gradients = []
    for implementation in ON_CPU:
        leaves = leaves_of(case.inputs, case.scale)
        output = axial_attention(*leaves, implementation=implementation)[used]
        gradients.append(
            torch.autograd.grad(
                output.sum(), leaves, materialize_grads=True
            )  # the sum's gradient is expanded, not contiguous
        )
    reference, *others = gradients
    for implementation, other in zip(ON_CPU[1:], others, strict=True):
        for name, got, want in zip(NAMES, other, reference, strict=True):
            message = f"{implementation}, gradient of {name}: "
            close(got, want, msg=lambda text, message=message: message + text)


@pytest.mark.parametrize("implementation", ON_CPU[1:])
@pytest.mark.parametrize("trainable", range(7), ids=NAMES)
def test_one_input_alone_may_be_trained(trainable: int, implementation: str) -> None:
    case = expected(7, 3, "short", scaled=True)
    assert case.scale is not None
    tensors = [*case.inputs, case.scale]
    tensors[trainable] = leaf = tensors[trainable].clone().requires_grad_()
    outputs = axial_attention(*tensors, span=3, implementation=implementation)
    (gradient,) = torch.autograd.grad(outputs, [leaf], case.cotangents)
    close(gradient, case.gradients[trainable])


@pytest.mark.parametrize("implementation", ON_CPU)
def test_memory_layout_of_the_inputs_does_not_matter(implementation: str) -> None:
    """As the layer passes them: channels cut from one projection, positions innermost."""
    case = expected(7, 3, "short", scaled=True)
    strided = [tensor.clone() for tensor in case.inputs]
    for index in range(3):
        strided[index] = strided[index].permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
        assert not strided[index].is_contiguous()
    for index in range(3, 6):
        strided[index] = strided[index].t().contiguous().t()
    check(case._replace(inputs=Inputs(*strided)), 3, implementation)


@pytest.mark.parametrize("implementation", ON_CPU)
def test_one_row_and_one_head(implementation: str) -> None:
    """B·N = 1 lets views through that larger batches copy."""
    inputs = random_inputs(5, rows=1, heads=1)
    inputs = Inputs(*(tensor.transpose(-2, -1).contiguous().mT for tensor in inputs))
    outputs = axial_attention(*inputs, implementation=implementation)
    for got, want in zip(outputs, attention_by_triple_loop(inputs), strict=True):
        close(got, want)


@pytest.mark.parametrize("implementation", ON_CPU[1:])
def test_second_derivatives_are_refused(implementation: str) -> None:
    leaves = [tensor.requires_grad_() for tensor in random_inputs(5)]
    content, _ = axial_attention(*leaves, implementation=implementation)
    assert content is not None
    (gradient,) = torch.autograd.grad(content.square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"no autograd formula|once_differentiable"):
        gradient.sum().backward()
