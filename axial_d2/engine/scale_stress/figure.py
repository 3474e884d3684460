"""The curves as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from axial_d2.engine.scale_stress.report import Curve, relative_gain
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

PANEL_INCHES = (4.6, 3.6)
MARKERS = "osD^vP*X"
Curves = Mapping[str, Mapping[str, Curve]]


def draw_curves(curves: Curves, file: Path, title: str, baseline: str | None = None) -> None:
    """Draws a panel a metric, with a curve for each run over the ratio (logarithmic).

    Args:
        curves: title of the panel → label → ratio → percent, see
            :func:`axial_d2.engine.scale_stress.report.curves`.
        file: to write, of a kind that Matplotlib writes.
        title: of the picture.
        baseline: a label; a second row then draws the gain of every other run, relative to this
            one in percent, as Fig. 4 of the paper does.
    """
    rows = {"": curves}
    if baseline is not None:
        rows[_literal(f" gain over {baseline}")] = _gains(curves, baseline)
    size = (PANEL_INCHES[0] * len(curves), PANEL_INCHES[1] * len(rows) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(curves), sharex=True, squeeze=False)
    labels = list(next(iter(curves.values())))
    for row, (subject, row_curves) in zip(panels, rows.items(), strict=True):
        for axes, (metric, runs) in zip(row, row_curves.items(), strict=True):
            _draw_panel(axes, runs, labels)
            axes.set_title(f"{metric}{subject} (%)")
    for axes in panels[0]:
        axes.set_ylim(bottom=0)
    for axes in panels[-1]:
        axes.set_xlabel("input size / size of plain evaluation")
    _mark_ratios(panels[0, 0], curves)
    figure.suptitle(_literal(title))
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=max(1, min(len(names), 4)))
    figure.savefig(file, dpi=150)


def _gains(curves: Curves, baseline: str) -> Curves:
    return {
        metric: {
            label: relative_gain(curve, runs[baseline])
            for label, curve in runs.items()
            if label != baseline
        }
        for metric, runs in curves.items()
    }


def _draw_panel(axes: Axes, runs: Mapping[str, Curve], labels: list[str]) -> None:
    for label, curve in runs.items():
        style = labels.index(label)
        axes.plot(
            list(curve),
            [math.nan if value is None else value for value in curve.values()],
            color=f"C{style % 10}",
            marker=MARKERS[style % len(MARKERS)],
            label=_literal(label),
            clip_on=False,
        )
    axes.axvline(1, color="0.6", linestyle="--", linewidth=1, zorder=0)
    axes.grid(axis="y", color="0.9")


def _mark_ratios(axes: Axes, curves: Curves) -> None:
    """Gives the axis that all panels share a tick for every ratio."""
    ratios = {ratio for runs in curves.values() for curve in runs.values() for ratio in curve}
    axes.set_xscale("log", base=2)
    ticks = sorted(ratios | {1.0})
    axes.set_xticks(ticks, [f"{ratio:g}" for ratio in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _literal(text: str) -> str:
    """Text that Matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
