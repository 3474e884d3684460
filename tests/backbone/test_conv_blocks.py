"""Convolutional blocks of DeepLab2's backbones, and drop path in them and in axial blocks."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from axial_d2.backbone import AxialBlock
from axial_d2.backbone.conv_blocks import BasicBlock, BottleneckBlock
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone import resnet
from tiny_backbones import ceil_div, let_branches_speak
from torch import nn

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
make_basic = functools.partial(BasicBlock, 6, 10)
make_bottleneck = functools.partial(BottleneckBlock, 6, 10, bottleneck_channels=4)
make_axial = functools.partial(AxialBlock, 6, 10, bottleneck_channels=8, num_heads=2, max_span=9)
CONV_BLOCKS: list[functools.partial] = [make_basic, make_bottleneck]
BLOCKS: list[functools.partial] = [*CONV_BLOCKS, make_axial]


def prepared(make: functools.partial, **options: object) -> CNNBlockBase:
    block = make(**options).double().eval()
    let_branches_speak(block)
    return block


def images(*size: int) -> torch.Tensor:
    return torch.randn(*size, dtype=torch.float64)


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (8, 6)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("make", CONV_BLOCKS)
def test_the_function_is_detectron2s(
    make: functools.partial, stride: int, size: tuple[int, int]
) -> None:
    block = prepared(make, stride=stride)
    plain_class = getattr(resnet, type(block).__name__)
    plain = plain_class(6, 10, stride=stride, **make.keywords).double().eval()
    plain.load_state_dict(block.state_dict())
    x = images(2, 6, *size)
    out = block(x)
    assert out.shape == (2, 10, *(ceil_div(extent, stride) for extent in size))
    close(out, plain(x))


@pytest.mark.parametrize("make", BLOCKS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("out_channels", [6, 10])
def test_fresh_block_is_its_shortcut(
    make: functools.partial, stride: int, out_channels: int
) -> None:
    """Where the channels do not change, the input itself, at every second row and column."""
    block = make.func(6, out_channels, stride=stride, **make.keywords).double()
    x = images(2, 6, 7, 4)
    if out_channels == 6:
        assert block.shortcut is None
        shortcut = x[:, :, ::stride, ::stride]
    else:
        shortcut = block.shortcut(x)
    close(block(x), F.relu(shortcut))


@pytest.mark.parametrize("size", [(5, 9), (8, 6), (7, 4), (1, 2)])
def test_dilation_takes_the_place_of_a_stride(size: tuple[int, int]) -> None:
    """A coarser network sees every second row and column of what a finer one sees."""
    strided = prepared(make_basic, stride=2)
    dense = prepared(make_basic, second_dilation=2)
    dense.load_state_dict(strided.state_dict())
    x = images(1, 6, *size)
    close(dense(x)[:, :, ::2, ::2], strided(x))
    assert dense(x).shape[2:] == size


@pytest.mark.parametrize("make", BLOCKS)
def test_drop_path_changes_nothing_but_training(make: functools.partial) -> None:
    block, plain = prepared(make, drop_path=0.5), prepared(make)
    assert block.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(block.state_dict())
    x = images(4, 6, 5, 3)
    assert torch.equal(block(x), plain(x))
    assert not torch.equal(block.train()(x), plain.train()(x))


@pytest.mark.parametrize("make", BLOCKS)
def test_without_drop_path_no_random_number_is_drawn(make: functools.partial) -> None:
    block, dropping = prepared(make).train(), prepared(make, drop_path=0.1).train()
    x = images(4, 6, 5, 3)
    state = torch.get_rng_state()
    out = block(x)
    assert torch.equal(torch.get_rng_state(), state)
    block.drop_path = nn.Identity()
    assert torch.equal(block(x), out)
    dropping(x)
    assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("make", BLOCKS)
def test_drop_path_keeps_or_drops_the_branch_of_each_image(make: functools.partial) -> None:
    """Kept ones are scaled, so that the average is what it would be without drop path."""
    rate, batch = 0.25, 4000
    block = prepared(make, drop_path=rate, norm="FrozenBN").train()
    # So large that no ReLU bends the sum.
    block.shortcut.norm.bias.fill_(1000.0)
    x = images(1, 6, 3, 2)
    shortcut = block.shortcut(x)
    branch = block.eval()(x) - shortcut

    with torch.no_grad():
        out = block.train()(x.expand(batch, -1, -1, -1))
    kept = (out - shortcut).flatten(1).abs().amax(1) > 1e-6
    close(out[~kept], shortcut.expand_as(out[~kept]), rtol=1e-7)
    close(out[kept], (shortcut + branch / (1 - rate)).expand_as(out[kept]), rtol=1e-7)
    # Four standard deviations.
    margin = 4 * (rate * (1 - rate) / batch) ** 0.5
    assert kept.double().mean().item() == pytest.approx(1 - rate, abs=margin)


@pytest.mark.parametrize("make", BLOCKS)
@pytest.mark.parametrize("size", [(5, 4), (1, 3), (1, 1)])
def test_every_parameter_receives_a_gradient(
    make: functools.partial, size: tuple[int, int]
) -> None:
    block = prepared(make, drop_path=0.5).train()
    block(images(3, 6, *size)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("make", CONV_BLOCKS)
@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize("size", [(1, 3), (4, 3)])
def test_gradient_by_finite_differences(
    make: functools.partial, norm: str, size: tuple[int, int]
) -> None:
    block = prepared(make, norm=norm, stride=2)
    x = images(1, 6, *size).requires_grad_()
    assert torch.autograd.gradcheck(block, [x])
