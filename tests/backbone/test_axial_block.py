"""One residual block: shortcut, striding, state."""

from __future__ import annotations

import functools
import re

import pytest
import torch
import torch.nn.functional as F
from axial_d2.backbone import AxialBlock
from axial_d2.backbone.blocks import STRIDING_CHOICES
from tiny_backbones import ceil_div, let_branches_speak

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def make_block(in_channels: int = 6, out_channels: int = 10, **options: object) -> AxialBlock:
    arguments = {"bottleneck_channels": 8, "num_heads": 2, "max_span": 9, **options}
    return AxialBlock(in_channels, out_channels, **arguments).double()


@pytest.mark.parametrize("striding", STRIDING_CHOICES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("out_channels", [6, 10])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_fresh_block_is_its_shortcut(
    training: bool, out_channels: int, stride: int, striding: str
) -> None:
    block = make_block(out_channels=out_channels, stride=stride, striding=striding)
    block.train(training)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    if out_channels == 6:
        assert block.shortcut is None
        shortcut = x[:, :, ::stride, ::stride]
    else:
        shortcut = block.shortcut(x)
    close(block(x), F.relu(shortcut))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("stride", [1, 2])
def test_block_is_the_figures_table_of_contents(stride: int, training: bool) -> None:
    """Fig. 2 step by step, with nothing between the axes but the stride.

    In training the dropped rows must not count in the norms of the width axis.
    """
    block = make_block(stride=stride).train(training)
    let_branches_speak(block)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    out = F.relu(block.conv1(x))
    out = block.height_axis(out)[:, :, ::stride, :]
    out = block.width_axis(out)[:, :, :, ::stride]
    want = F.relu(block.conv3(F.relu(out)) + block.shortcut(x))
    close(block(x), want)


def test_average_pool_after_both_axes() -> None:
    block = make_block(stride=2, striding="avg_pool").eval()
    let_branches_speak(block)
    x = torch.randn(2, 6, 4, 6, dtype=torch.float64)
    out = block.width_axis(block.height_axis(F.relu(block.conv1(x))))
    pooled = sum(out[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    close(block(x), F.relu(block.conv3(F.relu(pooled)) + block.shortcut(x)))


def test_average_pool_at_the_border_averages_what_exists() -> None:
    """Odd sizes: the last pools have one row or column, and are no darker for it."""
    block = make_block(stride=2, striding="avg_pool").eval()
    let_branches_speak(block)
    block.height_axis = block.width_axis = torch.nn.Identity()
    block.conv1 = block.conv3 = block.shortcut = torch.nn.Identity()
    x = torch.ones(1, 8, 5, 3, dtype=torch.float64)
    block.shortcut = None
    close(block(x), torch.full((1, 8, 3, 2), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("striding", STRIDING_CHOICES)
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (3, 5), (8, 6)])
def test_output_size_is_rounded_up(size: tuple[int, int], striding: str) -> None:
    block = make_block(stride=2, striding=striding).eval()
    out = block(torch.randn(1, 6, *size, dtype=torch.float64))
    assert out.shape == (1, 10, ceil_div(size[0], 2), ceil_div(size[1], 2))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 3), (3, 1), (3, 2)])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_gradient_by_finite_differences(norm: str, size: tuple[int, int], stride: int) -> None:
    block = make_block(stride=stride, norm=norm).eval()
    let_branches_speak(block)
    x = torch.randn(1, 6, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, [x])


def test_transposed_image_with_the_axes_exchanged() -> None:
    """Not an identity of the block (height goes first), but of either axis alone."""
    block = make_block().eval()
    let_branches_speak(block)
    for axis in ("height_axis", "width_axis"):
        alone, other = make_block().eval(), make_block().eval()
        alone.load_state_dict(block.state_dict())
        other.load_state_dict(block.state_dict())
        exchanged = {"height_axis": "width_axis", "width_axis": "height_axis"}[axis]
        state = getattr(alone, axis).state_dict()
        getattr(other, exchanged).load_state_dict(state)
        setattr(alone, exchanged, torch.nn.Identity())
        setattr(other, axis, torch.nn.Identity())
        x = torch.randn(1, 6, 5, 4, dtype=torch.float64)
        close(other(x.mT), alone(x).mT)


def test_every_parameter_receives_a_gradient() -> None:
    block = make_block()
    block(torch.randn(2, 6, 5, 4, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


def test_channels_of_keys() -> None:
    assert make_block().height_axis.key_channels == 4
    block = make_block(key_channels=8)
    assert {block.height_axis.key_channels, block.width_axis.key_channels} == {8}


def test_unknown_striding_is_refused() -> None:
    message = "STRIDING 'pool' is unknown; choose one of ('subsample', 'avg_p"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_block(striding="pool")
