"""In eval() the norms of an attention layer are computed within its projections, reversibly.

That outputs and all gradients are right there is what test_layer_equals_definition.py and
test_any_terms_equal_definition.py hold against loops over the equations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from attention_layers import make_layer, randomise_norms
from axial_d2.layers import NORM_CHOICES, GlobalAttention, PositionSensitiveLocalAttention
from axial_d2.layers.folding import FoldingConv2d
from axial_d2.layers.norm import build_norm
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F

close = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def window_layer(norm: str = "BN") -> nn.Module:
    layer = PositionSensitiveLocalAttention(5, 4, 8, num_heads=2, span=3, norm=norm)
    randomise_norms(layer)
    return layer.double()


def global_layer(norm: str = "BN") -> nn.Module:
    layer = GlobalAttention(5, 6, num_heads=2, norm=norm)
    randomise_norms(layer)
    return layer.double()


def axial_layer(norm: str = "BN") -> nn.Module:
    return make_layer(norm=norm)


def convolution(norm: str = "BN") -> nn.Module:
    layer = FoldingConv2d(
        5, 6, kernel_size=3, stride=2, norm=build_norm(norm, 6), activation=F.relu
    )
    randomise_norms(layer)
    return layer.double()


LAYERS = {
    "axial": axial_layer,
    "window": window_layer,
    "global": global_layer,
    "convolution": convolution,
}
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def images() -> Tensor:
    return torch.randn(2, 5, 6, 7, dtype=torch.float64)


def norms(layer: nn.Module) -> list[nn.Module]:
    return [module for module in layer.modules() if hasattr(module, "running_var")]


def calls_of_norms(layer: nn.Module, x: Tensor) -> int:
    calls: list[nn.Module] = []
    handles = [
        norm.register_forward_hook(lambda *args: calls.append(args[0])) for norm in norms(layer)
    ]
    layer(x)
    for handle in handles:
        handle.remove()
    return len(calls)


@each_layer
def test_no_norm_runs_in_eval(make: Callable[..., nn.Module]) -> None:
    layer = make()
    assert calls_of_norms(layer, images()) > 0
    assert calls_of_norms(layer.eval(), images()) == 0
    assert calls_of_norms(make("FrozenBN").train(), images()) == 0


@each_layer
def test_eval_changes_no_state(make: Callable[..., nn.Module]) -> None:
    layer = make()
    keys = list(layer.state_dict())
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    places = {name: tensor.data_ptr() for name, tensor in layer.state_dict().items()}
    with torch.inference_mode():
        layer.eval()(images())
    assert list(layer.state_dict()) == keys
    assert {name: tensor.data_ptr() for name, tensor in layer.state_dict().items()} == places
    close(dict(layer.state_dict()), before, rtol=0, atol=0)


@each_layer
def test_train_takes_it_back(make: Callable[..., nn.Module]) -> None:
    layer, never_in_eval = make(), make()
    never_in_eval.load_state_dict(layer.state_dict())
    with torch.inference_mode():
        layer.eval()(images())
    x = images()
    results = []
    for each in (layer.train(), never_in_eval):
        leaf = x.clone().requires_grad_()
        output = each(leaf)
        output.square().sum().backward()
        gradients = {name: p.grad for name, p in each.named_parameters()}
        results.append([output, leaf.grad, gradients, dict(each.named_buffers())])
    close(results[0], results[1], rtol=0, atol=0)


@each_layer
def test_what_changes_in_eval_is_seen(make: Callable[..., nn.Module]) -> None:
    """Nothing folded is kept: loaded weights and steps of an optimizer count at once."""
    layer, other = make().eval(), make().eval()
    x = images()
    before = layer(x)
    layer.load_state_dict(other.state_dict())
    close(layer(x), other(x))
    assert (layer(x) - before).abs().max() > 0.1
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(x).sum().backward()
    optimizer.step()
    assert (layer(x) - other(x)).abs().max() > 0.01


@pytest.mark.parametrize("norm", NORM_CHOICES)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_equals_convolution_then_norm(norm: str, bias: bool) -> None:
    """Outputs and gradients, of the norm's own parameters too."""
    options = {"kernel_size": 3, "stride": 2, "padding": 1, "bias": bias}
    folding = FoldingConv2d(5, 6, norm=build_norm(norm, 6), **options).double()
    plain = Conv2d(5, 6, norm=build_norm(norm, 6), **options).double()
    randomise_norms(folding)
    plain.load_state_dict(folding.state_dict())
    results = []
    x = images()
    for each in (folding.eval(), plain.eval()):
        leaf = x.clone().requires_grad_()
        output = each(leaf)
        (output**3).sum().backward()
        results.append([output, leaf.grad, {name: p.grad for name, p in each.named_parameters()}])
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


def test_gain_and_offset_follow_the_norm() -> None:
    conv = FoldingConv2d(5, 6, kernel_size=1, norm=build_norm("BN", 6)).double().eval()
    randomise_norms(conv)
    gain, offset = torch.randn(2, 6, dtype=torch.float64)
    x = images()
    want = conv(x) * gain[:, None, None] + offset[:, None, None]
    torch.testing.assert_close(conv(x, gain, offset), want, rtol=1e-9, atol=1e-9)


def test_batch_statistics_take_no_gain() -> None:
    conv = FoldingConv2d(5, 6, kernel_size=1, norm=build_norm("BN", 6)).double()
    with pytest.raises(AssertionError):
        conv(images(), torch.ones(6))
