"""Attention costs what its formula says: a loop over queries and keys counts the same."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from axial_d2.analysis import ModelCost, analyze, attention_pairs
from axial_d2.layers import (
    AttentionTerms,
    AxialAttention,
    GlobalAttention,
    LocalAttention,
    PositionSensitiveLocalAttention,
)
from axial_d2.ops import axial_attention
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

HEADS, KEYS, VALUES = 2, 8, 12
TERMS = ("query_key", "query_position", "key_position", "value_content", "value_position")


def products_by_loop(lengths: tuple[int, ...], span: int, count_border: str) -> Counter[str]:
    """Products of one head on one line or image, one multiply-add at a time."""
    counts: Counter[str] = Counter()
    reach = span // 2 if span else max(lengths)
    whole_windows = span and count_border == "full"
    for query in itertools.product(*map(range, lengths)):
        for offset in itertools.product(range(-reach, reach + 1), repeat=len(lengths)):
            key = [place + step for place, step in zip(query, offset, strict=True)]
            inside = all(0 <= place < length for place, length in zip(key, lengths, strict=True))
            if inside or whole_windows:
                for term in TERMS:
                    for _ in range((KEYS if "key" in term or "query" in term else VALUES) // HEADS):
                        counts[f"attention.{term}"] += 1
    return counts


def attention(cost: ModelCost) -> dict[str, int]:
    return {name: count for name, count in cost.by_operator.items() if "attention" in name}


def scaled(counts: Counter[str], factor: int) -> dict[str, int]:
    return {name: count * factor for name, count in counts.items()}


@pytest.mark.parametrize("count_border", ["full", "truncated"])
@pytest.mark.parametrize("span", [0, 1, 3, 9])
@pytest.mark.parametrize("axis", ["height", "width"])
def test_axial_attention(axis: str, span: int, count_border: str) -> None:
    layer = AxialAttention(6, KEYS, VALUES, axis, num_heads=HEADS, span=span)
    cost = analyze(layer, (7, 5), channels=6, count_border=count_border)
    length, lines = (7, 5) if axis == "height" else (5, 7)
    by_loop = products_by_loop((length,), span, count_border)
    assert attention(cost) == scaled(by_loop, lines * HEADS)
    assert cost.by_operator["convolution"] == 7 * 5 * 6 * (2 * KEYS + VALUES)


@pytest.mark.parametrize("count_border", ["full", "truncated"])
@pytest.mark.parametrize("span", [1, 3, 7])
def test_local_attention(span: int, count_border: str) -> None:
    layer = PositionSensitiveLocalAttention(6, KEYS, VALUES, num_heads=HEADS, span=span)
    cost = analyze(layer, (5, 6), channels=6, count_border=count_border)
    assert attention(cost) == scaled(products_by_loop((5, 6), span, count_border), HEADS)


def test_global_attention_is_a_product_of_all_pairs() -> None:
    cost = analyze(GlobalAttention(6, VALUES, num_heads=HEADS), (5, 7), channels=6)
    pairs = 35 * 35
    assert attention(cost) == {
        "attention.query_key": pairs * VALUES,
        "attention.value_content": pairs * VALUES,
    }


@pytest.mark.parametrize("absent", TERMS)
def test_an_absent_term_is_not_counted(absent: str) -> None:
    terms = AttentionTerms(**{absent: False})
    everything, fewer = (
        attention(analyze(layer, (7, 5), channels=6))
        for layer in (
            AxialAttention(6, KEYS, VALUES, "height", num_heads=HEADS),
            AxialAttention(6, KEYS, VALUES, "height", num_heads=HEADS, terms=terms),
        )
    )
    everything.pop(f"attention.{absent}")
    assert fewer == everything


def test_position_alone_is_retrieved() -> None:
    terms = AttentionTerms(query_key=False, key_position=False, value_content=False)
    layer = AxialAttention(6, KEYS, VALUES, "width", num_heads=HEADS, terms=terms)
    cost = analyze(layer, (3, 5), channels=6)
    pairs = 3 * 5 * 5
    assert attention(cost) == {
        "attention.query_position": pairs * KEYS,
        "attention.value_position": pairs * VALUES,
    }
    # The projection to queries, and one retrieved term.
    assert cost.activations == 15 * KEYS + 15 * VALUES


def test_sasa_without_positions_has_two_products() -> None:
    layer = LocalAttention(6, VALUES, num_heads=HEADS, span=3, positions="none")
    cost = analyze(layer, (4, 4), channels=6)
    assert set(attention(cost)) == {"attention.query_key", "attention.value_content"}


def test_the_references_einsums_count_the_same_where_attention_is_global() -> None:
    class Reference(nn.Module):
        def forward(self, query: Tensor, key: Tensor, value: Tensor, *tables: Tensor) -> Tensor:
            content, position = axial_attention(
                query, key, value, tables[0], tables[1], tables[2], implementation="reference"
            )
            assert content is not None
            assert position is not None
            return content + position

    lines, length = 3, 5
    query, key = torch.rand(2, lines, HEADS, length, KEYS // HEADS)
    value = torch.rand(lines, HEADS, length, VALUES // HEADS)
    tables = [torch.rand(2 * length - 1, c // HEADS) for c in (KEYS, KEYS, VALUES)]
    reference = FlopCountAnalysis(Reference(), (query, key, value, *tables))
    reference.unsupported_ops_warnings(False)

    layer = AxialAttention(6, KEYS, VALUES, "width", num_heads=HEADS)
    cost = analyze(layer, (lines, length), channels=6)
    assert sum(attention(cost).values()) == reference.by_operator()["einsum"]


@pytest.mark.parametrize("kind", [AxialAttention, PositionSensitiveLocalAttention])
def test_the_implementation_changes_nothing(kind: type) -> None:
    axis = ("height",) if kind is AxialAttention else ()
    costs = [
        analyze(
            kind(6, KEYS, VALUES, *axis, num_heads=HEADS, span=3, implementation=implementation),
            (7, 5),
            channels=6,
        )
        for implementation in ("auto", "reference", "blocked")
    ]
    assert costs[0] == costs[1] == costs[2]
    # The projection, then content and position.
    assert costs[0].activations == 35 * (2 * KEYS + VALUES) + 35 * 2 * VALUES


def test_whole_windows_are_linear_in_the_span() -> None:
    def products(span: int) -> int:
        layer = AxialAttention(6, KEYS, VALUES, "height", num_heads=HEADS, span=span)
        return sum(attention(analyze(layer, (33, 4), channels=6)).values())

    assert [products(span) for span in (3, 5, 9)] == [products(1) * span for span in (3, 5, 9)]


def test_truncated_windows_that_see_all_are_global() -> None:
    assert attention_pairs((7, 5), 13, "truncated") == attention_pairs((7, 5), 0) == 35 * 35


def test_an_unknown_way_to_count_the_border_is_refused() -> None:
    with pytest.raises(ValueError, match="count_border 'clipped' is unknown; choose one of"):
        analyze(nn.Identity(), (4, 4), count_border="clipped")
