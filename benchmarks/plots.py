"""Sweeps as pictures: time and peak memory beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PLOTS = Path(__file__).parent / "plots"
# What is drawn of a point, in which unit, under which label.
PANELS: tuple[tuple[Callable[[Mapping], float | None], str], ...] = (
    (lambda point: point["median_s"], "time, s"),
    (lambda point: point["peak_bytes"] and point["peak_bytes"] / 2**20, "peak memory, MiB"),
)


def draw_sweep(result: Mapping, folder: Path, device: str) -> Path:
    """Draws one sweep of a report to ``folder``; returns the file."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(f"{result['title']} ({device})")
    for axes, (value, label) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        _draw_panel(axes, result, value)
        axes.set_xlabel(result["x_label"])
        axes.set_ylabel(label)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{device}_{result['name']}.png"
    figure.savefig(path, dpi=100)
    return path


def _draw_panel(axes: Axes, result: Mapping, value: Callable[[Mapping], float | None]) -> None:
    ticks = sorted({point["x"] for point in result["points"]})
    heights: list[float] = []
    for series in dict.fromkeys(point["series"] for point in result["points"]):
        points = [point for point in result["points"] if point["series"] == series]
        drawn = [(point["x"], value(point)) for point in points if value(point) is not None]
        axes.plot(*zip(*drawn, strict=True) if drawn else ((), ()), marker="o", label=series)
        heights += [height for _, height in drawn if height is not None]
    axes.set_xscale("log", base=2)
    if heights and max(heights) < 10 * min(heights):
        axes.set_ylim(0, 1.1 * max(heights))  # a log axis would have no number, and show noise
    else:
        axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
