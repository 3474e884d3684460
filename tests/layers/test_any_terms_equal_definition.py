"""Position-sensitive layers with any of their terms equal eq. 3 pair by pair, in float64."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from attention_layers import randomise_norms
from axial_d2.layers import AttentionTerms, AxialAttention, PositionSensitiveLocalAttention
from cpu_implementations import ON_CPU
from naive_layer import copy_state
from naive_window import KINDS, State, naive_position_sensitive
from torch import Tensor

INPUT, KEYS, VALUES, HEADS, MAX_SPAN = 5, 4, 8, 2, 3
TERMS = [
    AttentionTerms(*logits, *retrieved)
    for logits in itertools.product([True, False], repeat=3)
    for retrieved in itertools.product([True, False], repeat=2)
    if any(logits) and any(retrieved)
]
NAMES = ("qk", "qr", "kr", "content", "position")

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def identify(terms: AttentionTerms) -> str:
    return "+".join(itertools.compress(NAMES, (*terms.logits, *terms.retrieved)))


def make(
    kind: str, span: int, terms: AttentionTerms, implementation: str, **options: Any
) -> AxialAttention | PositionSensitiveLocalAttention:
    options = {
        "num_heads": HEADS,
        "span": span,
        "terms": terms,
        "implementation": implementation,
        **options,
    }
    if kind == "window":
        layer = PositionSensitiveLocalAttention(INPUT, KEYS, VALUES, **options)
    else:
        layer = AxialAttention(INPUT, KEYS, VALUES, kind, max_span=MAX_SPAN, **options)
    randomise_norms(layer)
    return layer.double()


class Case(NamedTuple):
    state: State
    x: Tensor
    cotangent: Tensor
    output: Tensor
    gradients: dict[str, Tensor]
    state_after: State


@functools.cache
def expected(
    kind: str, size: tuple[int, int], span: int, terms: AttentionTerms, training: bool
) -> Case:
    torch.manual_seed(3)
    initial = make(kind, span, terms, "reference")
    state = {name: tensor.clone() for name, tensor in initial.state_dict().items()}
    running = copy_state(initial)
    x = torch.randn(2, INPUT, *size, dtype=torch.float64, requires_grad=True)
    output = naive_position_sensitive(
        x,
        running,
        kind=kind,
        num_heads=HEADS,
        key_channels=KEYS,
        value_channels=VALUES,
        span=span,
        query_key=terms.query_key,
        value_content=terms.value_content,
        training=training,
    )
    cotangent = torch.randn(output.shape, dtype=torch.float64)
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


def check(
    kind: str,
    size: tuple[int, int],
    span: int,
    terms: AttentionTerms,
    training: bool,
    implementation: str,
) -> None:
    case = expected(kind, size, span, terms, training)
    layer = make(kind, span, terms, implementation).train(training)
    layer.load_state_dict(case.state)
    x = case.x.clone().requires_grad_()
    output = layer(x)
    close(output.detach(), case.output)
    output.backward(case.cotangent)
    gradients = {"x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}
    assert gradients.keys() == case.gradients.keys()
    for name, want in case.gradients.items():
        close(gradients[name], want, msg=lambda text, name=name: f"gradient of {name}: {text}")
    for name, got in layer.named_buffers():
        close(got, case.state_after[name], msg=lambda text, name=name: f"{name}: {text}")


def with_implementations(kinds: Sequence[str]) -> list[tuple[str, str]]:
    """The C++ kernels are of axes."""
    return [
        (kind, implementation)
        for kind in kinds
        for implementation in ON_CPU
        if (kind, implementation) != ("window", "cpp")
    ]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("terms", TERMS, ids=identify)
@pytest.mark.parametrize(("kind", "implementation"), with_implementations(["height", "window"]))
def test_any_terms(kind: str, terms: AttentionTerms, training: bool, implementation: str) -> None:
    check(kind, (5, 3), 3, terms, training, implementation)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [(1, 4), (4, 1), (3, 4)])
@pytest.mark.parametrize(("kind", "implementation"), with_implementations(KINDS))
@pytest.mark.parametrize(
    "terms",
    [AttentionTerms(), AttentionTerms(value_position=False), AttentionTerms(query_key=False)],
    ids=identify,
)
def test_any_size(
    terms: AttentionTerms,
    kind: str,
    size: tuple[int, int],
    training: bool,
    implementation: str,
) -> None:
    """Thin images too, whose strides confuse batch norm; the window is larger than some of them."""
    check(kind, size, 5, terms, training, implementation)


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("span", [1, 7, 15])
def test_any_span_of_the_window(span: int, training: bool, implementation: str) -> None:
    check("window", (4, 6), span, AttentionTerms(), training, implementation)


@pytest.mark.parametrize("norm", ["SyncBN", "naiveSyncBN", "FrozenBN"])
def test_norms_of_the_window_layer(norm: str) -> None:
    """One process: synchronised norms are plain ones, and frozen ones are those of eval mode."""
    terms = AttentionTerms(key_position=False)
    frozen = norm == "FrozenBN"
    case = expected("window", (5, 3), 3, terms, training=not frozen)
    layer = make("window", 3, terms, "reference", norm=norm)
    layer.load_state_dict(case.state, strict=not frozen)
    close(layer.train()(case.x).detach(), case.output)
    for name, got in layer.named_buffers():
        close(got, case.state_after[name], msg=lambda text, name=name: f"{name}: {text}")
