"""Blocks of local, position-sensitive local and global attention: order, striding, state."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from axial_d2.backbone import (
    AxialBlock,
    GlobalBlock,
    LocalBlock,
    PositionSensitiveLocalBlock,
)
from axial_d2.backbone.blocks import STRIDING_CHOICES, AttentionBlock
from axial_d2.layers import AttentionTerms
from tiny_backbones import ceil_div, let_branches_speak
from torch import Tensor, nn

BLOCKS: dict[str, type[AttentionBlock]] = {
    "local": LocalBlock,
    "local_ps": PositionSensitiveLocalBlock,
    "global": GlobalBlock,
}
NORM_STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
every_kind = pytest.mark.parametrize("kind", BLOCKS)
either_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
any_striding = pytest.mark.parametrize("striding", STRIDING_CHOICES)


def make(kind: str, in_channels: int = 6, out_channels: int = 10, **options: Any) -> AttentionBlock:
    arguments = {"bottleneck_channels": 8, "num_heads": 2, **options}
    if kind != "global":
        arguments = {"span": 3, "implementation": "reference", **arguments}
    return BLOCKS[kind](in_channels, out_channels, **arguments).double()


def strided(x: Tensor, stride: int, striding: str) -> Tensor:
    """Every other row and column, or the mean of what exists in each 2×2 square."""
    if stride == 1:
        return x
    rows, columns = (range(0, side, stride) for side in x.shape[2:])
    if striding == "subsample":
        pick = [[x[:, :, y, c] for c in columns] for y in rows]
    else:
        pick = [
            [x[:, :, y : y + stride, c : c + stride].mean((2, 3)) for c in columns] for y in rows
        ]
    return torch.stack([torch.stack(row, dim=2) for row in pick], dim=2)


@any_striding
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("out_channels", [6, 10])
@either_mode
@every_kind
def test_fresh_block_is_its_shortcut(
    kind: str, training: bool, out_channels: int, stride: int, striding: str
) -> None:
    """The last norm starts at 0."""
    block = make(kind, out_channels=out_channels, stride=stride, striding=striding).train(training)
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    if out_channels == 6:
        assert block.shortcut is None
        shortcut = x[:, :, ::stride, ::stride]
    else:
        shortcut = block.shortcut(x)
    close(block(x), F.relu(shortcut))


@any_striding
@pytest.mark.parametrize("stride", [1, 2])
@either_mode
@every_kind
def test_order_of_the_steps(kind: str, training: bool, stride: int, striding: str) -> None:
    """Attention, stride, norm (SASA), or norms inside the attention, then the stride.

    Averages and norms with fixed statistics commute; with a batch's own statistics they do not.
    """
    block = make(kind, stride=stride, striding=striding).train(training)
    let_branches_speak(block)
    x = torch.randn(2, 6, 5, 6, dtype=torch.float64)
    out = strided(block.attention(F.relu(block.conv1(x))), stride, striding)
    if kind != "local_ps":
        assert out.shape[1] == block.attention_norm.num_features
        out = block.attention_norm(out)
    want = F.relu(block.conv3(F.relu(out)) + block.shortcut(x))
    close(block(x), want)


@any_striding
@pytest.mark.parametrize("kind", ["local", "global"])
def test_norm_behind_the_stride_counts_strided_pixels(kind: str, striding: str) -> None:
    block = make(kind, stride=2, striding=striding)
    let_branches_speak(block)
    block.attention_norm.momentum = 1.0
    seen = []
    block.attention.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block(torch.randn(2, 6, 4, 6, dtype=torch.float64))
    values = strided(seen[0], 2, striding)
    assert values.shape == (2, 8, 2, 3)
    close(block.attention_norm.running_var, values.transpose(0, 1).flatten(1).var(1))


@any_striding
@every_kind
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (3, 5), (8, 6)])
def test_output_size_is_rounded_up(size: tuple[int, int], kind: str, striding: str) -> None:
    block = make(kind, stride=2, striding=striding).eval()
    out = block(torch.randn(1, 6, *size, dtype=torch.float64))
    assert out.shape == (1, 10, ceil_div(size[0], 2), ceil_div(size[1], 2))


@every_kind
def test_average_pool_at_the_border_averages_what_exists(kind: str) -> None:
    """Odd sizes: the last pools have one row or column, and are no darker for it."""
    block = make(kind, in_channels=8, out_channels=8, stride=2)
    assert block.striding == "avg_pool"  # SASA's
    block.attention = block.attention_norm = block.conv1 = block.conv3 = nn.Identity()
    x = torch.ones(1, 8, 5, 3, dtype=torch.float64)
    close(block(x), torch.full((1, 8, 3, 2), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 3), (3, 1), (3, 2)])
@either_mode
@every_kind
def test_gradient_by_finite_differences(
    kind: str, training: bool, size: tuple[int, int], stride: int, num_heads: int
) -> None:
    block = make(kind, 4, 6, stride=stride, num_heads=num_heads).train(training)
    let_branches_speak(block)
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, [x], fast_mode=True)


@every_kind
def test_every_parameter_receives_a_gradient(kind: str) -> None:
    block = make(kind)
    block(torch.randn(2, 6, 5, 4, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


@every_kind
def test_state_dict_keys_are_frozen(kind: str) -> None:
    norms = [f"{conv}.norm" for conv in ("conv1", "conv3", "shortcut")]
    weights = ["conv1", "conv3", "shortcut", "attention.qkv"]
    tables = []
    if kind == "local_ps":
        norms += [f"attention.{norm}" for norm in ("qkv.norm", "logit_norm", "retrieved_norm")]
        tables = ["query", "key", "value"]
    else:
        norms.append("attention_norm")
        if kind == "global":
            norms.append("attention.qkv.norm")
        else:
            tables = ["query"]
    expected = {f"{name}.weight" for name in weights}
    expected |= {f"{norm}.{name}" for norm in norms for name in NORM_STATE}
    expected |= {
        f"attention.{table}_window.{part}_table" for table in tables for part in ("row", "column")
    }
    assert set(make(kind).state_dict()) == expected
    if kind != "global":
        assert set(make(kind, implementation="blocked").state_dict()) == expected


@pytest.mark.parametrize("block_class", BLOCKS.values())
def test_defaults_are_the_papers(block_class: type[AttentionBlock]) -> None:
    block = block_class(16, 16, bottleneck_channels=16)
    assert (block.stride, block.striding, block.attention.num_heads) == (1, "avg_pool", 8)
    if block_class is not GlobalBlock:
        assert block.attention.span == 7


@pytest.mark.parametrize("kind", ["local", "local_ps"])
def test_options_reach_the_attention(kind: str) -> None:
    terms = AttentionTerms(query_key=False, key_position=False, value_position=False)
    options = {"num_heads": 4, "span": 5, "implementation": "blocked", "terms": terms}
    attention = make(kind, **options).attention
    for name, value in options.items():
        assert getattr(attention, name) == value, name
    assert attention.qkv.out_channels == 16  # no key


@pytest.mark.parametrize("positions", ["relative", "absolute", "none"])
def test_positions_reach_the_attention(positions: str) -> None:
    assert make("local", positions=positions).attention.positions == positions


def test_terms_reach_both_axes() -> None:
    terms = AttentionTerms(value_position=False)
    block = AxialBlock(6, 10, bottleneck_channels=8, num_heads=2, terms=terms)
    assert {block.height_axis.terms, block.width_axis.terms} == {terms}


@pytest.mark.parametrize("norm", ["SyncBN", "FrozenBN"])
@every_kind
def test_norm_reaches_every_norm(kind: str, norm: str) -> None:
    block = make(kind, norm=norm)
    norms = {type(m).__name__ for m in block.modules() if hasattr(m, "running_var")}
    assert norms == {{"SyncBN": "SyncBatchNorm", "FrozenBN": "FrozenBatchNorm2d"}[norm]}


@every_kind
def test_unknown_striding_is_refused(kind: str) -> None:
    message = "STRIDING 'pool' is unknown; choose one of ('subsample', 'avg_p"
    with pytest.raises(ValueError, match=re.escape(message)):
        make(kind, striding="pool")
