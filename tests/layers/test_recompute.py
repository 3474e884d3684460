"""What is forgotten comes back as it was."""

from __future__ import annotations

import pytest
import torch
from axial_d2.layers import AxialAttention
from axial_d2.layers.folding import FoldingConv2d
from axial_d2.layers.norm import build_norm
from axial_d2.layers.recompute import keeping
from axial_d2.layers.striding import subsample


def make_conv(recomputes: bool, norm: str = "BN") -> FoldingConv2d:
    torch.manual_seed(1)
    conv = FoldingConv2d(4, 24, kernel_size=1, bias=False, norm=build_norm(norm, 24))
    conv.recomputes = recomputes
    return conv.train()


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "naiveSyncBN"])
def test_gradients_and_statistics_are_those_of_keeping(norm: str) -> None:
    results = []
    for recomputes in (True, False):
        torch.manual_seed(0)
        conv = make_conv(recomputes, norm)
        x = torch.randn(2, 4, 6, 5, requires_grad=True)
        output = conv(x)
        output.sin().sum().backward()
        gradients = [parameter.grad for parameter in conv.parameters()]
        results.append([output, x.grad, *gradients, *conv.buffers()])
    for got, want in zip(*results, strict=True):
        assert torch.equal(got, want)


def test_output_of_the_convolution_is_computed_twice_and_not_kept() -> None:
    x = torch.randn(2, 4, 6, 5)
    calls = []
    conv = make_conv(True)
    convolve = conv._convolve
    conv._convolve = lambda *inputs: calls.append(1) or convolve(*inputs)  # type: ignore[method-assign]
    output = conv(x)
    assert len(calls) == 1
    output.sum().backward()
    assert len(calls) == 2
    with keeping():
        conv(x).sum().backward()
    assert len(calls) == 3


def test_attention_s_projection_forgets() -> None:
    assert AxialAttention(8, 8, 8, "width", num_heads=2).qkv.recomputes


@pytest.mark.parametrize("changed", ["weight", "input"])
def test_a_change_before_the_backward_is_an_error(changed: str) -> None:
    conv = make_conv(True)
    x = torch.randn(2, 4, 6, 5)
    output = conv(x)
    with torch.no_grad():
        (conv.weight if changed == "weight" else x).add_(1)
    with pytest.raises(RuntimeError, match=r"changed in place|modified by an inplace operation"):
        output.sum().backward()


def test_the_backward_repeats_the_forward_s_autocast() -> None:
    gradients = []
    for recomputes in (True, False):
        conv = make_conv(recomputes)
        torch.manual_seed(0)
        x = torch.randn(2, 4, 6, 5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = conv(x)
        output.float().sin().sum().backward()  # outside of autocast, as it should be
        gradients.append(conv.weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("size", [(5, 8), (1, 3), (4, 4)])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_subsampling_is_slicing(size: tuple[int, int], rows: int, columns: int) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    got, want = subsample(x, rows, columns), x[:, :, ::rows, ::columns]
    assert torch.equal(got, want)
    gradients = [torch.autograd.grad(each.sin().sum(), x)[0] for each in (got, want)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_gradients_of_subsampling_have_channels_last() -> None:
    x = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    output = subsample(x, 2, 2)
    (gradient,) = torch.autograd.grad(output, x, torch.ones_like(output))
    assert gradient.is_contiguous(memory_format=torch.channels_last)
