"""docs/fidelity.md: published, ours, difference; everything in it is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from axial_d2.analysis.fidelity.measure import Measured
from axial_d2.analysis.fidelity.tables import PublishedTable
from tabulate import tabulate

MeasuredTable = tuple[PublishedTable, list[Measured]]

HEADER = """# Fidelity: the published numbers, and ours

Written by `tools/fidelity_report.py`, which builds every model below without weights and counts it
with `axial_d2.analysis`; a test fails where the published tables here are out of date, a slow one
(`make test-slow`) where anything is. Nothing is typed by hand but the published numbers and the
words (`axial_d2/analysis/fidelity/`).

A multiply-add is one product of a convolution, a matrix product, or one of attention's five terms
(q·k, q·r, k·r, and the weighted sums of v and r^v), counted from the formula whichever
implementation runs; a window counts all of its positions, those beyond the border too. Norms,
softmax, pooling and interpolation count nothing. Parameters are in millions (M), multiply-adds in
billions (B).
"""

ALTERNATIVES = """# Choices that the papers leave open

The text does not say everything: whether the stem has a pool and scales with the width, where
striding happens, what replaces the ASPP, and what a window counts at the border. The presets above
are the readings that fit parameters and multiply-adds together best; here is what the others give.
That the paper's COCO table was counted with span 65, too, is concluded from the fit.
SASA's text makes "FPN and heads" attention; its parameters leave FPN convolutional.
"""


def write_document(
    tables: Iterable[MeasuredTable],
    alternatives: Iterable[MeasuredTable],
    slopes: Sequence[tuple[str, float, float]],
) -> str:
    """The whole document.

    Args:
        tables: the published tables, measured.
        alternatives: other readings of them, measured.
        slopes: (how windows count at the border, ours, published) multiply-adds for a unit of
            span, in billions.
    """
    tables = list(tables)
    parts = [HEADER, *map(_section, tables), _slope_section(slopes), _misses(tables)]
    return "\n".join([*parts, ALTERNATIVES, *map(_section, alternatives)])


def slope(measured: Sequence[Measured]) -> tuple[float, float]:
    """Multiply-adds for a unit of span by least squares, ours and published, in billions.

    Args:
        measured: rows whose names end in their span.
    """
    spans = [int(row.published.name.rpartition(" ")[2]) for row in measured]
    ours = [row.multiply_adds / 1e9 for row in measured]
    published = [row.published.multiply_adds or 0.0 for row in measured]
    return float(np.polyfit(spans, ours, 1)[0]), float(np.polyfit(spans, published, 1)[0])


def _section(measured_table: MeasuredTable) -> str:
    table, rows = measured_table
    with_cost = any(row.published.multiply_adds is not None for row in rows)
    headers = ["model", "parameters: published", "ours", "difference"]
    if with_cost:
        headers += ["multiply-adds: published", "ours", "difference"]
    lines = [_row(row, with_cost) for row in rows]
    body = tabulate(lines, headers, tablefmt="github", disable_numparse=True)
    return f"## {table.title}\n\n{table.choices}\n\n{body}\n"


def _row(row: Measured, with_cost: bool) -> list[str]:
    published = row.published
    if row.exact:
        parameters = [f"{published.parameters:,}", f"{row.parameters:,}"]
    else:
        known = published.parameters is not None
        parameters = [
            f"{published.parameters:.1f}M" if known else "–",
            f"{row.parameters / 1e6:.2f}M",
        ]
    cells = [published.name, *parameters, _difference(row.parameter_ratio, row.exact)]
    if with_cost:
        known = published.multiply_adds is not None
        cells += [
            f"{published.multiply_adds:.4g}B" if known else "–",
            f"{row.multiply_adds / 1e9:.{1 if row.multiply_adds > 5e10 else 2}f}B",
            _difference(row.multiply_add_ratio),
        ]
    return cells


def _difference(ratio: float | None, exact: bool = False) -> str:
    if ratio is None:
        return "–"
    if exact and ratio == 1:
        return "none"
    return f"{(ratio - 1) * 100:+.1f} %"


def _slope_section(slopes: Sequence[tuple[str, float, float]]) -> str:
    body = tabulate(
        [
            [how, f"{published:.3f}B", f"{ours:.3f}B", _difference(ours / published)]
            for how, ours, published in slopes
        ],
        ["windows at the border", "published", "ours", "difference"],
        tablefmt="github",
        disable_numparse=True,
    )
    return f"## Multiply-adds for a unit of span, Axial-DeepLab-L\n\n{body}\n"


def _misses(tables: Iterable[MeasuredTable]) -> str:
    """What does not fit, in words."""
    missed = [
        f"- {table.title}, {row.published.name}: {what} {_difference(ratio)}"
        for table, rows in tables
        for row in rows
        for what, ratio, tolerance in (
            ("parameters", row.parameter_ratio, PARAMETER_TOLERANCE),
            ("multiply-adds", row.multiply_add_ratio, MULTIPLY_ADD_TOLERANCE),
        )
        if ratio is not None and abs(ratio - 1) > (0 if row.exact else tolerance)
    ]
    said = (
        f"Parameters farther off than {PARAMETER_TOLERANCE:.0%} (exact ones: at all), "
        f"multiply-adds farther off than {MULTIPLY_ADD_TOLERANCE:.0%}:"
    )
    return "\n".join(["## What does not fit", "", said, "", *(missed or ["- nothing"]), ""])


PARAMETER_TOLERANCE = 0.01
MULTIPLY_ADD_TOLERANCE = 0.03
