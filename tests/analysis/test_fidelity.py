"""The published numbers hold, and docs/fidelity.md says what is counted today."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from axial_d2.analysis.fidelity import (
    MULTIPLY_ADD_TOLERANCE,
    PARAMETER_TOLERANCE,
    PUBLISHED,
    Measured,
    axial_deeplab,
    measure,
    slope,
    write_document,
)
from tool_modules import load_tool

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SLOPE_TOLERANCE = 0.05
ROWS = [model for table in PUBLISHED for model in table.models]


@pytest.mark.parametrize("model", ROWS, ids=lambda model: model.name)
def test_published_row(model) -> None:
    measured = measure(model, CONFIGS)
    if measured.exact:
        assert measured.parameters == model.parameters
    elif model.parameters is not None:
        assert measured.parameter_ratio == pytest.approx(1, abs=PARAMETER_TOLERANCE)
    if model.multiply_adds is not None:
        assert measured.multiply_add_ratio == pytest.approx(1, abs=MULTIPLY_ADD_TOLERANCE)


def test_slope_over_the_span() -> None:
    rows = [measure(model, CONFIGS) for model in axial_deeplab.SPAN_TABLE.models]
    ours, published = slope(rows)
    assert published == pytest.approx(1.167, abs=0.001)
    assert ours / published == pytest.approx(1, abs=SLOPE_TOLERANCE)


def test_nothing_is_left_to_compare_with_nothing() -> None:
    assert all(m.parameters is not None or m.multiply_adds is not None for m in ROWS)


def test_the_document_is_up_to_date() -> None:
    """Its first part; the other readings of the papers are checked by a slow test."""
    tables = [(table, [measure(m, CONFIGS) for m in table.models]) for table in PUBLISHED]
    written = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    slope_section = "## Multiply-adds for a unit of span"
    expected = write_document(tables, [], []).partition(slope_section)[0]
    assert written.partition(slope_section)[0] == expected


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("fidelity_report")


@pytest.mark.slow
def test_the_documents_are_up_to_date(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0


@pytest.mark.slow
def test_check_notices_a_stale_document(tool: ModuleType, tmp_path: Path) -> None:
    stale = tmp_path / "model_zoo.md"
    stale.write_text("old", encoding="utf-8")
    assert tool.main(["--check", "--only", "model_zoo", "--output", str(tmp_path)]) == 1
    assert stale.read_text(encoding="utf-8") == "old"


def test_a_miss_is_said() -> None:
    table = axial_deeplab.SPAN_TABLE
    good = [measure(m, CONFIGS) for m in table.models]
    bad = [Measured(good[0].published, good[0].parameters, 2 * good[0].multiply_adds), *good[1:]]
    assert "- nothing" in write_document([(table, good)], [], [])
    document = write_document([(table, bad)], [], [])
    assert "- nothing" not in document
    assert f"{table.title}, span 5: multiply-adds +102." in document
