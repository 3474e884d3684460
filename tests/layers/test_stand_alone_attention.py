"""LocalAttention equals SASA's equations 2 and 3 pair by pair, with every kind of positions."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from axial_d2.layers import ALL_TERMS, POSITION_CHOICES, AttentionTerms, LocalAttention
from axial_d2.layers.absolute_position import sinusoid_positions
from naive_layer import copy_state
from naive_window import naive_stand_alone, sinusoids

INPUT, OUTPUT, HEADS = 4, 8, 2
IMPLEMENTATIONS = ("reference", "blocked")
NO_CONTENT = AttentionTerms(query_key=False)

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def make(implementation: str = "reference", **options: object) -> LocalAttention:
    options = {"num_heads": HEADS, "span": 3, **options}
    return LocalAttention(INPUT, OUTPUT, implementation=implementation, **options).double()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (4, 6)])
@pytest.mark.parametrize("span", [1, 3, 7])
@pytest.mark.parametrize(
    ("positions", "terms"),
    [*((positions, ALL_TERMS) for positions in POSITION_CHOICES), ("relative", NO_CONTENT)],
    ids=[*POSITION_CHOICES, "q·r alone"],
)
def test_equals_the_equations(
    positions: str, terms: AttentionTerms, span: int, size: tuple[int, int], implementation: str
) -> None:
    layer = make(implementation, positions=positions, terms=terms, span=span)
    state = copy_state(layer)
    x, naive_x = (
        torch.randn(2, INPUT, *size, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    naive_x.data.copy_(x.data)
    want = naive_stand_alone(
        naive_x,
        state,
        num_heads=HEADS,
        span=span,
        positions=positions,
        query_key=terms.query_key,
    )
    got = layer(x)
    close(got.detach(), want.detach())
    cotangent = torch.randn(got.shape, dtype=torch.float64)
    got.backward(cotangent)
    gradients = torch.autograd.grad(want, [naive_x, *state.values()], cotangent)
    parameters = dict(layer.named_parameters())
    assert parameters.keys() == state.keys()
    close(x.grad, gradients[0])
    for (name, parameter), gradient in zip(parameters.items(), gradients[1:], strict=True):
        close(parameter.grad, gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ("none", {"qkv.weight": (24, 4, 1, 1)}),
        ("absolute", {"qkv.weight": (24, 4, 1, 1)}),
        (
            "relative",
            {
                "qkv.weight": (24, 4, 1, 1),
                "query_window.row_table": (3, 2),
                "query_window.column_table": (3, 2),
            },
        ),
    ],
)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_state_dict_keys_and_shapes_are_frozen(
    implementation: str, positions: str, expected: dict
) -> None:
    """Whatever the implementation."""
    state = make(implementation, positions=positions).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


def test_defaults_are_the_papers() -> None:
    layer = LocalAttention(64, 64)
    assert (layer.num_heads, layer.span, layer.positions) == (8, 7, "relative")
    assert "num_heads=8, span=7, positions=relative" in repr(layer)


def test_absolute_positions_are_sinusoids_added_to_the_input() -> None:
    """At any size: without content in the image, positions alone make pixels differ."""
    for size in ((1, 1), (3, 5), (40, 2)):
        like = torch.zeros((), dtype=torch.float64)
        got = sinusoid_positions(*size, 8, like)
        close(got, sinusoids(size, 8))
    absolute, plain = make(positions="absolute"), make(positions="none")
    plain.load_state_dict(absolute.state_dict())
    x = torch.randn(2, INPUT, 4, 5, dtype=torch.float64)
    close(absolute(x), plain(x + sinusoid_positions(4, 5, INPUT, x)))


def test_sinusoids_tell_rows_from_columns() -> None:
    waves = sinusoid_positions(5, 7, 16, torch.zeros(()))
    assert torch.equal(waves[:8], waves[:8, :, :1].expand(-1, -1, 7))
    assert torch.equal(waves[8:], waves[8:, :1].expand(-1, 5, -1))
    pixels = waves.flatten(1).T
    distance = torch.cdist(pixels, pixels) + torch.eye(35)
    assert distance.min() > 0.05  # no two pixels have the same code


def test_no_positions_see_a_set() -> None:
    """Permuting the pixels of a window that covers the image permutes the output."""
    layer = make(positions="none", span=7)
    x = torch.randn(1, INPUT, 2, 3, dtype=torch.float64)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    shuffled = x.flatten(2)[:, :, order].view_as(x)
    close(layer(shuffled).flatten(2), layer(x).flatten(2)[:, :, order])
    relative = make(positions="relative", span=7)
    assert not torch.allclose(
        relative(shuffled).flatten(2), relative(x).flatten(2)[:, :, order], atol=1e-3
    )


def test_a_pixel_reaches_its_window_and_no_further() -> None:
    layer = make(span=3)
    x = torch.randn(1, INPUT, 6, 7, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 2, 5] += 1
    touched = (layer(changed) - layer(x)).abs().sum((0, 1)) > 1e-9
    expected = torch.zeros(6, 7, dtype=torch.bool)
    expected[1:4, 4:7] = True
    assert torch.equal(touched, expected)


def test_bf16_autocast_on_the_cpu() -> None:
    for positions in POSITION_CHOICES:
        layer = make(positions=positions).float()
        x = torch.randn(2, INPUT, 5, 6)
        single = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = layer(x)
        assert output.dtype == torch.bfloat16
        assert (output.float() - single).norm() / single.norm() < 0.05
        output.float().square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads 3 does not divide"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"span": 4}, "span 4 is even; for 2-D local attention it must be odd"),
        ({"span": 0}, 'Global 2-D attention is the stage type "global"'),
        ({"span": -3}, "span -3 is negative"),
        ({"positions": "learned"}, "positions 'learned' is unknown; choose from ('relative', 'abs"),
        ({"implementation": "cuda"}, "'cuda' is unknown; choose one of ('auto', 'reference'"),
        ({"num_heads": 8}, "a head of 1 channels cannot be half row and half column"),
    ],
)
def test_constructor_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(options.pop("implementation", "reference"), **options)


def test_absolute_positions_refuse_channels_they_cannot_fill_before_any_image_comes() -> None:
    with pytest.raises(ValueError, match=r"absolute positions need channels in multiples of 4.*6"):
        LocalAttention(6, 8, num_heads=2, positions="absolute")
    LocalAttention(6, 8, num_heads=2, positions="none")
