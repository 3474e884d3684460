"""AttentionTerms: which of the 32 combinations exist, and what each costs in parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from axial_d2.layers import (
    ALL_TERMS,
    AttentionTerms,
    AxialAttention,
    LocalAttention,
    PositionSensitiveLocalAttention,
)

FLAGS = list(itertools.product([True, False], repeat=5))
POSSIBLE = [flags for flags in FLAGS if any(flags[:3]) and any(flags[3:])]
# Channels: of the input, of all keys, of all values; heads; positions of a table or window.
INPUT, KEYS, VALUES, HEADS, MAX_SPAN, SPAN = 6, 8, 12, 2, 5, 3
ROWS = {"axial": 2 * MAX_SPAN - 1, "local": SPAN}


def identify(flags: tuple[bool, ...]) -> str:
    return "".join(str(int(flag)) for flag in flags)


def axial(terms: AttentionTerms) -> AxialAttention:
    return AxialAttention(
        INPUT, KEYS, VALUES, "height", num_heads=HEADS, max_span=MAX_SPAN, terms=terms
    )


def local(terms: AttentionTerms) -> PositionSensitiveLocalAttention:
    return PositionSensitiveLocalAttention(
        INPUT, KEYS, VALUES, num_heads=HEADS, span=SPAN, terms=terms
    )


LAYERS: dict[str, Callable] = {"axial": axial, "local": local}


def test_all_terms_exist_by_default() -> None:
    assert AttentionTerms(*[True] * 5) == ALL_TERMS == AttentionTerms()


@pytest.mark.parametrize("flags", FLAGS, ids=identify)
def test_impossible_combinations_say_what_is_missing(flags: tuple[bool, ...]) -> None:
    if flags in POSSIBLE:
        terms = AttentionTerms(*flags)
        assert (*terms.logits, *terms.retrieved) == flags
        return
    names = "QUERY_KEY, QUERY_POSITION and KEY_POSITION are all off"
    if any(flags[:3]):
        names = "VALUE_CONTENT and VALUE_POSITION are both off"
    with pytest.raises(ValueError, match=f"{names}.*turn one on"):
        AttentionTerms(*flags)


def test_21_combinations_are_possible() -> None:
    assert len(POSSIBLE) == 7 * 3


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("flags", POSSIBLE, ids=identify)
def test_a_term_that_is_off_costs_nothing(flags: tuple[bool, ...], kind: str) -> None:
    """Neither its table, its channels of a norm, nor a projection that nothing else reads."""
    query_key, query_position, key_position, value_content, value_position = flags
    projected = 0
    if query_key or query_position:
        projected += KEYS
    if query_key or key_position:
        projected += KEYS
    if value_content:
        projected += VALUES
    logits = (query_key + query_position + key_position) * HEADS
    retrieved = (value_content + value_position) * VALUES
    key_tables = (query_position + key_position) * ROWS[kind] * KEYS // HEADS
    value_table = value_position * ROWS[kind] * VALUES // HEADS
    expected = projected * INPUT + 2 * (projected + logits + retrieved) + key_tables + value_table

    layer = LAYERS[kind](AttentionTerms(*flags))
    assert sum(p.numel() for p in layer.parameters()) == expected
    assert layer.qkv.out_channels == layer.qkv.norm.num_features == projected
    assert layer.logit_norm.num_features == logits
    assert layer.retrieved_norm.num_features == retrieved


@pytest.mark.parametrize(
    ("terms", "projected"),
    [
        ({}, 3),
        ({"query_position": False}, 3),
        ({"query_key": False}, 2),  # no key: nothing reads it
        ({"query_key": False, "key_position": True}, 2),  # which does not exist here
        ({"value_position": False}, 3),
    ],
)
def test_stand_alone_attention_has_at_most_two_logit_terms(terms: dict, projected: int) -> None:
    layer = LocalAttention(INPUT, 8, num_heads=2, span=3, terms=AttentionTerms(**terms))
    assert layer.qkv.out_channels == projected * 8
    assert layer.terms.logits == (
        terms.get("query_key", True),
        terms.get("query_position", True),
        False,
    )
    assert layer.terms.retrieved == (True, False)
    assert (layer.query_window is not None) == terms.get("query_position", True)


@pytest.mark.parametrize("positions", ["absolute", "none"])
def test_positions_that_are_not_relative_have_no_table(positions: str) -> None:
    layer = LocalAttention(8, 8, num_heads=2, span=3, positions=positions)
    assert [name for name, _ in layer.named_parameters()] == ["qkv.weight"]
    assert layer.terms.logits == (True, False, False)


@pytest.mark.parametrize(
    ("terms", "positions", "message"),
    [
        ({"query_key": False}, "none", "no logit term"),
        ({"query_key": False}, "absolute", "no logit term"),
        ({"query_key": False, "query_position": False}, "relative", "no logit term"),
        ({"value_content": False}, "relative", "retrieves nothing"),
    ],
)
def test_stand_alone_attention_refuses_what_leaves_it_nothing(
    terms: dict, positions: str, message: str
) -> None:
    """Each is possible with position-sensitive attention."""
    with pytest.raises(ValueError, match=message):
        LocalAttention(
            8, 8, num_heads=2, span=3, positions=positions, terms=AttentionTerms(**terms)
        )
