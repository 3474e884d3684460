"""AxialAttention equals a layer that normalises whole logit maps, in float64."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from attention_layers import make_layer
from cpu_implementations import ON_CPU
from naive_layer import State, copy_state, naive_axial_attention
from torch import Tensor

OTHER_SIDE = 3

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


class Case(NamedTuple):
    state: State
    x: Tensor
    cotangent: Tensor
    output: Tensor
    gradients: dict[str, Tensor]
    state_after: State


@functools.cache
def expected(axis: str, length: int, span: int, training: bool) -> Case:
    torch.manual_seed(length)
    initial = make_layer(axis, span=span)
    state = {name: tensor.clone() for name, tensor in initial.state_dict().items()}
    x = torch.randn(2, 5, length, OTHER_SIDE, dtype=torch.float64)
    x = (x if axis == "height" else x.mT).requires_grad_()
    running = copy_state(initial)
    output = naive_axial_attention(
        x, running, axis=axis, num_heads=2, key_channels=4, span=span, training=training
    )
    cotangent = torch.randn_like(output)
    leaves = {"x": x, **{name: t for name, t in running.items() if t.requires_grad}}
    gradients = torch.autograd.grad(output, [*leaves.values()], cotangent)
    return Case(
        state,
        x.detach(),
        cotangent,
        output.detach(),
        dict(zip(leaves, gradients, strict=True)),
        running,
    )


def check(axis: str, length: int, span: int, training: bool, implementation: str) -> None:
    case = expected(axis, length, span, training)
    layer = make_layer(axis, span=span, implementation=implementation)
    layer.load_state_dict(case.state)
    layer.train(training)
    x = case.x.clone().requires_grad_()
    output = layer(x)
    close(output.detach(), case.output)
    output.backward(case.cotangent)
    gradients = {"x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}
    assert gradients.keys() == case.gradients.keys()
    for name, want in case.gradients.items():
        close(gradients[name], want, msg=lambda text, name=name: f"gradient of {name}: {text}")
    for name, got in layer.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert got == int(training)
        else:
            close(got, case.state_after[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("span", [1, 3, 65, 0])
@pytest.mark.parametrize("length", [1, 2, 7, 65, 130])
def test_equals_naive_layer(length: int, span: int, training: bool, implementation: str) -> None:
    """A table of 17 rows, so that lengths of 65 and 130 go beyond it."""
    check("width", length, span, training, implementation)


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("length", "span"), [(1, 0), (7, 3), (65, 0)])
def test_height_axis_equals_naive_layer(
    length: int, span: int, training: bool, implementation: str
) -> None:
    check("height", length, span, training, implementation)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [(1, 3), (3, 1), (2, 3)])
@pytest.mark.parametrize("axis", ["height", "width"])
def test_gradient_of_thin_images(axis: str, size: tuple[int, int], training: bool) -> None:
    """By finite differences.

    On the CPU, torch 2.11's batch norm returns a wrong gradient where its input is contiguous and
    the gradient of its output is not, but an extent of 1 makes both strides look alike.
    """
    layer = make_layer(axis).train(training)
    layer.logit_norm.momentum = layer.qkv.norm.momentum = layer.retrieved_norm.momentum = 0.0
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, [x])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_height_attention_is_width_attention_transposed(training: bool) -> None:
    width, height = make_layer("width"), make_layer("height")
    height.load_state_dict(width.state_dict())
    x = torch.randn(2, 5, 4, 7, dtype=torch.float64)
    close(height.train(training)(x.mT), width.train(training)(x).mT)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_length_beyond_the_table_repeats_its_ends(training: bool) -> None:
    short, long = make_layer(max_span=3), make_layer(max_span=20)
    state = short.state_dict()
    for name in ("query_table", "key_table", "value_table"):
        table, more = state[name], 17
        state[name] = torch.cat([table[:1].expand(more, -1), table, table[-1:].expand(more, -1)])
    long.load_state_dict(state)
    x = torch.randn(2, 5, 3, 20, dtype=torch.float64)
    close(short.train(training)(x), long.train(training)(x))


@pytest.mark.parametrize("axis", ["height", "width"])
def test_lines_do_not_see_each_other(axis: str) -> None:
    layer = make_layer(axis).eval()
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    changed = x.clone()
    line = (slice(None), 2) if axis == "height" else (2, slice(None))
    changed[1, :, line[0], line[1]] += 1
    difference = (layer(changed) - layer(x)).abs().sum(1)
    touched = torch.zeros(2, 6, 6, dtype=torch.bool)
    touched[1, line[0], line[1]] = True
    assert torch.equal(difference > 1e-9, touched)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_implementations_share_keys_and_results(training: bool) -> None:
    layers = [make_layer(implementation=name) for name in ("reference", "blocked", "auto")]
    x = torch.randn(2, 5, 4, 7, dtype=torch.float64)
    for layer in layers:
        layer.load_state_dict(layers[0].state_dict())
    first, *others = [layer.train(training)(x) for layer in layers]
    for output in others:
        close(output, first)
