"""GlobalAttention is a softmax over all pixels, and never writes that map."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_layers import randomise_norms
from axial_d2.layers import GlobalAttention
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def make(num_heads: int = 2, **options: Any) -> GlobalAttention:
    layer = GlobalAttention(5, 6, num_heads=num_heads, **options)
    randomise_norms(layer)
    return layer.double()


def explicit(layer: GlobalAttention, x: Tensor) -> Tensor:
    """softmax(q k^T) v over the list of pixels, head by head, without a factor."""
    projected = F.batch_norm(
        torch.einsum("bchw,dc->bdhw", x, layer.qkv.weight[:, :, 0, 0]),
        layer.qkv.norm.running_mean.clone(),
        layer.qkv.norm.running_var.clone(),
        layer.qkv.norm.weight,
        layer.qkv.norm.bias,
        training=layer.training,
    )
    query, key, value = projected.flatten(2).mT.split(6, dim=2)  # [B, H·W, 6] each
    size = 6 // layer.num_heads
    outputs = []
    for head in range(layer.num_heads):
        part = slice(head * size, (head + 1) * size)
        weights = (query[..., part] @ key[..., part].mT).softmax(2)
        outputs.append(weights @ value[..., part])
    return torch.cat(outputs, dim=2).mT.unflatten(2, x.shape[2:])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (3, 6)])
@pytest.mark.parametrize("num_heads", [1, 2, 6])
def test_equals_the_explicit_softmax(num_heads: int, size: tuple[int, int], training: bool) -> None:
    layer = make(num_heads).train(training)
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    want, got = explicit(layer, x), layer(x)
    close(got, want)
    cotangent = torch.randn(got.shape, dtype=torch.float64)
    for first, second in zip(
        torch.autograd.grad(got, leaves, cotangent),
        torch.autograd.grad(want, leaves, cotangent),
        strict=True,
    ):
        close(first, second)


def test_permuting_pixels_permutes_the_output() -> None:
    layer = make().eval()
    x = torch.randn(1, 5, 3, 4, dtype=torch.float64)
    order = torch.randperm(12)
    shuffled = x.flatten(2)[:, :, order].view_as(x)
    close(layer(shuffled).flatten(2), layer(x).flatten(2)[:, :, order])


class LargestTensor(TorchDispatchMode):
    """Watches every operator, backward included."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *(tensor.numel() for tensor in tensors), 0)
        return result


def test_no_map_of_all_pairs_is_ever_written() -> None:
    pixels = 24 * 24
    layer = make().float()
    x = torch.randn(1, 5, 24, 24, requires_grad=True)
    with LargestTensor() as largest:
        layer(x).square().sum().backward()
        inference = layer.eval()(x.detach())
    assert inference.shape == (1, 6, 24, 24)
    assert 18 * pixels <= largest.elements < pixels**2 / 4


def test_state_dict_keys_and_shapes_are_frozen() -> None:
    expected = {"qkv.weight": (18, 5, 1, 1), "qkv.norm.num_batches_tracked": ()}
    for name in ("weight", "bias", "running_mean", "running_var"):
        expected[f"qkv.norm.{name}"] = (18,)
    assert {name: tuple(t.shape) for name, t in make().state_dict().items()} == expected


def test_empty_batch_and_autocast() -> None:
    layer = make().float()
    assert layer(torch.zeros(0, 5, 3, 4)).shape == (0, 6, 3, 4)
    x = torch.randn(2, 5, 6, 7)
    single = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    assert (output.float() - single).norm() / single.norm() < 0.05
    output.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4}, "num_heads 4 does not divide"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"norm": "GN"}, "norm 'GN' is not supported"),
    ],
)
def test_constructor_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**options)
