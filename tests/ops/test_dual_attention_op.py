"""Position and channel attention against their equations, written as loops over positions."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from axial_d2.ops import channel_attention, position_attention
from axial_d2.ops import dual_attention as op
from torch import Tensor

IMPLEMENTATIONS = (*op.IMPLEMENTATIONS, "auto")


def naive_position_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """DANet, equations 1 and 2, for one position after the other."""
    images = []
    for b in range(query.shape[0]):
        rows = []
        for i in range(query.shape[1]):
            energies = torch.stack([(query[b, i] * key[b, j]).sum() for j in range(key.shape[1])])
            shares = energies.exp() / energies.exp().sum()
            rows.append((shares[:, None] * value[b]).sum(dim=0))
        images.append(torch.stack(rows))
    return torch.stack(images)


def naive_channel_attention(x: Tensor, reverse: bool) -> Tensor:
    """DANet, equations 3 and 4; the released code takes max - energy instead."""
    images = []
    for image in x:
        rows = []
        for i in range(len(image)):
            energies = torch.stack([(image[i] * image[j]).sum() for j in range(len(image))])
            if reverse:
                energies = energies.max() - energies
            shares = (energies - energies.max()).exp()
            rows.append(((shares / shares.sum())[:, None] * image).sum(dim=0))
        images.append(torch.stack(rows))
    return torch.stack(images)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("length", "key_channels", "channels"), [(1, 3, 5), (7, 2, 6), (13, 6, 6), (12, 5, 2)]
)
def test_positions_equal_the_formula_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch,
    implementation: str,
    length: int,
    key_channels: int,
    channels: int,
) -> None:
    monkeypatch.setattr(op, "BLOCK", 5)  # several blocks, the last one smaller
    inputs = (random(2, length, key_channels), random(2, length, key_channels))
    inputs = (*inputs, random(2, length, channels))
    weights = torch.randn(2, length, channels, dtype=torch.float64)
    expected = naive_position_attention(*inputs)
    given = position_attention(*inputs, implementation=implementation)
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad((given * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("softmax", op.CHANNEL_SOFTMAX_CHOICES)
def test_channels_equal_the_formula_forward_and_backward(softmax: str) -> None:
    x = random(2, 5, 7)
    weights = torch.randn_like(x)
    expected = naive_channel_attention(x, reverse=softmax == "reversed_energy")
    given = channel_attention(x, softmax)
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)
    (ours,) = torch.autograd.grad((given * weights).sum(), x)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_papers_softmax_prefers_similar_channels_and_the_reversed_one_others() -> None:
    like, unlike = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([2.0, -1.0, 0.3])
    x = torch.stack([like, like * 0.9, unlike])[None]
    paper, reversed_ = (op.channel_weights(x, kind)[0, 0] for kind in op.CHANNEL_SOFTMAX_CHOICES)
    assert paper[1] > paper[2]
    assert reversed_[1] < reversed_[2]
    torch.testing.assert_close(torch.stack([paper.sum(), reversed_.sum()]), torch.ones(2))


def test_there_is_no_division_by_the_square_root_of_the_channels() -> None:
    # Energies log 3 and 0: three quarters of the first value, one of the second.
    query = torch.tensor([[[3.0, 0, 0, 0]]]).log().nan_to_num(neginf=0.0)
    key = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0]]])
    value = torch.tensor([[[4.0], [8.0]]])
    for implementation in op.IMPLEMENTATIONS:
        given = position_attention(query, key, value, implementation)
        torch.testing.assert_close(given, torch.tensor([[[5.0]]]))


def test_half_precision_computes_in_float32() -> None:
    inputs = [torch.randn(1, 6, channels) * 3 for channels in (4, 4, 8)]
    half = [tensor.bfloat16() for tensor in inputs]
    expected = position_attention(*(tensor.float() for tensor in half))
    given = position_attention(*half)
    assert given.dtype == torch.bfloat16
    torch.testing.assert_close(given, expected.bfloat16())


def test_unknown_choices_are_refused() -> None:
    x = torch.ones(1, 2, 2)
    with pytest.raises(ValueError, match=r"implementation 'fast'.*'blocked'"):
        position_attention(x, x, x, "fast")
    with pytest.raises(ValueError, match=r"'max'.*'energy', 'reversed_energy'"):
        channel_attention(x, "max")


# Peak in MiB of a forward and a backward over 64×64 positions, one map of which has 64 MiB.
PROGRAM = """
import sys, torch
from axial_d2.ops import position_attention
from pathlib import Path

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])

torch.set_num_threads(1)
inputs = [torch.rand(1, 64 * 64, 16, requires_grad=True) for _ in range(3)]
small = [tensor[:, :300] for tensor in inputs]
position_attention(*small, implementation=sys.argv[1]).sum().backward()
before = status("VmHWM")
position_attention(*inputs, implementation=sys.argv[1]).sum().backward()
print((status("VmHWM") - before) / 1024)
"""


def test_the_whole_map_is_never_in_memory() -> None:
    def peak(implementation: str) -> float:
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, implementation],
            capture_output=True,
            text=True,
            check=True,
        )
        return float(result.stdout)

    assert peak("blocked") < 32
    assert peak("reference") > 120  # so that this test would notice
