"""Rules, and the account of every tensor on both sides."""

from __future__ import annotations

import pytest
import torch
from axial_d2.weights.core import Rule, WeightsError, apply_rules, backbone_prefix
from axial_d2.weights.report import Report
from torch import Size, Tensor


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def shapes(**sizes: tuple[int, ...]) -> dict[str, Size]:
    return {name: Size(size) for name, size in sizes.items()}


def transposed(tensor: Tensor) -> Tensor:
    return tensor.T


def joined(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b])


def test_every_tensor_is_accounted_for() -> None:
    source = {
        "kernel": ones(2, 3),
        "a": ones(1),
        "b": 2 * ones(2),
        "step": ones(),
        "slot/m": ones(9),
    }
    rules = [
        Rule(("kernel",), "weight", transposed),
        Rule(("b", "a"), "bias", joined),
        Rule(("a",), "again"),
    ]
    target = shapes(weight=(3, 2), bias=(3,), again=(1,), head=(7,))
    report = apply_rules(
        rules, source, target, [("^step$", "counts"), ("slot/", "the optimizer's")]
    )
    assert report.converted["bias"].tolist() == [2, 2, 1]
    assert report.converted["weight"].is_contiguous()
    assert report.used == ["kernel", "a", "b"]
    assert report.ignored == {"step": "counts", "slot/m": "the optimizer's"}
    assert (report.unused, report.missing, report.skipped) == ([], {}, {})
    assert report.filled == ["weight", "bias", "again"]
    assert report.unfilled == ["head"]
    text = report.text()
    assert "used     3 tensors" in text
    assert "filled   3 tensors of the model, 10 numbers" in text
    assert "ignored  1 tensor (step): counts" in text
    assert "ignored  1 tensor (slot/m): the optimizer's" in text
    assert "unfilled 1 tensor of the model, which the source lacks: head (1)" in text


def test_counters_of_batches_are_told_apart_from_what_is_missing() -> None:
    target = shapes(weight=(1,), head=(7,)) | {"norm.num_batches_tracked": Size(())}
    report = apply_rules([Rule(("a",), "weight")], {"a": ones(1)}, target)
    assert report.unfilled == ["head", "norm.num_batches_tracked"]
    text = report.text()
    assert "unfilled 1 tensor of the model that count batches, which the source does not" in text
    assert "unfilled 1 tensor of the model, which the source lacks: head (1)" in text


def test_what_is_used_is_not_ignored() -> None:
    report = apply_rules([Rule(("a",), "a")], {"a": ones(1)}, shapes(a=(1,)), [("a", "never")])
    assert report.ignored == {}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(("a",), "w"), r"a of shape \(2, 3\) comes to \(2, 3\), and w has \(4, 3\)"),
        (Rule(("a",), "x"), "a becomes x, which the model lacks"),
        (Rule(("nowhere",), "w"), "w needs nowhere, not in the source"),
        (Rule(("a", "b"), "w", joined), r"a, b of shape \(2, 3\) and \(5,\) cannot become w: "),
        (Rule(("b",), "w"), "a of the source has no place in the model"),
    ],
    ids=["shape", "target", "missing", "layout", "unused"],
)
def test_what_does_not_fit_is_listed(rule: Rule, words: str) -> None:
    source = {"a": ones(2, 3), "b": ones(5)}
    with pytest.raises(WeightsError, match=words):
        apply_rules([rule], source, shapes(w=(4, 3)), [("b", "of no use")])


def test_a_long_list_is_cut() -> None:
    source = {f"t{n}": ones(1) for n in range(20)}
    with pytest.raises(WeightsError, match="… and 12 more"):
        apply_rules([], source, {})


def test_missing_and_unused_tensors_may_be_allowed() -> None:
    rules = [Rule(("a",), "w"), Rule(("gone",), "v")]
    report = apply_rules(
        rules,
        {"a": ones(1), "left": ones(1)},
        shapes(w=(1,), v=(1,)),
        allow_missing=True,
        allow_unused=True,
    )
    assert report.missing == {"v": ["gone"]}
    assert report.unused == ["left"]
    assert report.unfilled == ["v"]
    assert "MISSING  1 tensor of the source: gone" in report.text()
    assert "UNUSED   1 tensor of the source: left" in report.text()


def test_tables_grow_and_predictors_are_skipped_with_a_note() -> None:
    source = {"t": ones(3, 2), "u": ones(3, 2), "p": ones(19, 4)}
    rules = [
        Rule(("t",), "axis.query_table"),
        Rule(("u",), "axis.key_table"),
        Rule(("p",), "predictor.weight"),
    ]
    target = {
        "axis.query_table": Size((7, 2)),
        "axis.key_table": Size((7, 2)),
        "predictor.weight": Size((133, 4)),
    }
    report = apply_rules(rules, source, target)
    assert report.converted["axis.key_table"].shape == (7, 2)
    assert report.notes == [
        "2 × position table grown from 3 to 7 rows, repeating the last row on each side "
        "(attention is unchanged)"
    ]
    assert report.unfilled == ["predictor.weight"]
    assert "skipped  1 tensor (predictor.weight): the predictor has 19 output channels" in (
        report.text()
    )


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("res2.0.conv1.weight", ""),
        ("backbone.res2.0.conv1.weight", "backbone."),
        ("backbone.bottom_up.res2.0.conv1.weight", "backbone.bottom_up."),
    ],
)
def test_where_a_backbone_is(name: str, prefix: str) -> None:
    assert backbone_prefix(["head.weight", name]) == prefix


def test_an_empty_report_is_text_too() -> None:
    assert Report().text().startswith("used     0 tensors")
