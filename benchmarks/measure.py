"""Check, then time: contestants take turns in one process."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks.peak_memory import peak_memory, point_label
from benchmarks.registry import Contest, Entry, Goal, Points, Run, Setting, Side

QUICK_ROUNDS = 2


class CheckFailed(Exception):
    """A result is wrong, so that its time means nothing."""


def check(error: float, tolerance: float, checked_against: str) -> None:
    """Raises CheckFailed unless the error is a number up to the tolerance."""
    if not error <= tolerance:
        raise CheckFailed(
            f"the result differs from {checked_against} by {error:.3g}; at most {tolerance:.3g} "
            "is allowed. Nothing was timed."
        )


def time_in_turns(runs: Sequence[Run], rounds: int, device: str) -> list[list[float]]:
    """Seconds of every call, [runs][rounds]; in each round every run has one call.

    All have run before. Garbage is collected between calls, not within.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for run, times in zip(runs, seconds, strict=True):
                _wait(device)
                start = time.perf_counter()
                result = run()
                _wait(device)
                times.append(time.perf_counter() - start)
                del result
                gc.collect()
    finally:
        gc.enable()
    return seconds


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure_case(entry: Entry[Contest], setting: Setting, with_memory: bool = True) -> dict:
    """The figures of a case, as the report and the JSON file have them.

    Raises:
        CheckFailed: our result is wrong.
    """
    contest = entry.build(setting)
    sides = [contest.ours, *contest.peers]
    runs = [side.build() for side in sides]
    error = contest.check(runs[0], runs[1:])
    check(error, contest.tolerance, contest.checked_against)
    for run in runs if not contest.warm else ():
        run()
    with_memory = with_memory and contest.calls_for_peak > 0
    rounds = QUICK_ROUNDS if setting.quick else contest.rounds
    seconds = time_in_turns(runs, rounds, setting.device)
    runs.clear()
    measured = [
        side_figures(entry.name, side, side.name, times, setting, with_memory)
        for side, times in zip(sides, seconds, strict=True)
    ]
    ours, *peers = measured
    peer = min(peers, key=lambda figures: figures["median_s"])
    ratios = {
        "time": ours["median_s"] / peer["median_s"],
        "memory": _ratio(ours["peak_bytes"], peer["peak_bytes"]),
    }
    one_by_one = [a / b for a, b in zip(ours["seconds"], peer["seconds"], strict=True)]
    return {
        **_header(entry, contest, error),
        "notes": list(contest.notes),
        "sides": measured,
        "ours": ours["name"],
        "peer": peer["name"],
        "ratio": ratios,
        "time_ratio_range": [min(one_by_one), max(one_by_one)],
        "goals": [goal_figures(goal, ratios) for goal in entry.goals[setting.device]],
    }


def measure_sweep(entry: Entry[Points], setting: Setting, with_memory: bool = True) -> dict:
    """The figures of a sweep; all its points take turns.

    Raises:
        CheckFailed: the result at the first point of a series is wrong.
    """
    points = entry.build(setting)
    runs = {key: side.build() for key, side in points.sides.items()}
    errors, checked = [0.0], set()
    for (series, _), run in runs.items():
        if series not in checked:
            errors.append(points.check(series, run))
            check(errors[-1], points.tolerance, points.checked_against)
            checked.add(series)
        else:
            run()
    rounds = QUICK_ROUNDS if setting.quick else points.rounds
    seconds = time_in_turns(list(runs.values()), rounds, setting.device)
    runs.clear()
    measured = []
    for ((series, x), side), times in zip(points.sides.items(), seconds, strict=True):
        label = point_label(series, x)
        figures = side_figures(entry.name, side, label, times, setting, with_memory)
        measured.append({"series": series, "x": x, **figures})
    return {
        **_header(entry, points, max(errors)),
        "x_label": entry.x_label,
        "points": measured,
        "goals": growth_figures(entry, measured),
    }


def _header(entry: Entry, built: Contest | Points, error: float) -> dict:
    return {
        "name": entry.name,
        "title": entry.title,
        "topic": entry.topic,
        "status": "measured",
        "shapes": built.shapes,
        "error": error,
        "tolerance": built.tolerance,
        "checked_against": built.checked_against,
    }


def side_figures(
    name: str, side: Side, label: str, seconds: list[float], setting: Setting, with_memory: bool
) -> dict:
    median = statistics.median(seconds)
    return {
        "name": side.name,
        "seconds": seconds,
        "median_s": median,
        "spread": (max(seconds) - min(seconds)) / median,
        "peak_bytes": peak_memory(name, label, setting) if with_memory else None,
    }


def goal_figures(goal: Goal, ratios: Mapping[str, float | None]) -> dict:
    ratio = ratios[goal.quantity]
    return {
        "row": goal.row,
        "quantity": goal.quantity,
        "resolved_at": goal.resolved_at,
        "aim": goal.aim,
        "ratio": ratio,
        "verdict": "unmeasured" if ratio is None else goal.verdict(ratio),
    }


def growth_figures(entry: Entry[Points], measured: Sequence[Mapping[str, Any]]) -> list[dict]:
    growth = entry.growth
    if growth is None:
        return []
    per_square = {
        point["x"]: point["median_s"] / point["x"] ** 2
        for point in measured
        if point["series"] == growth.series
    }
    ratio = None
    if growth.start in per_square:  # not in a quick run
        ratio = per_square[max(per_square)] / per_square[growth.start]
    return [goal_figures(growth.goal, {"time": ratio})]


def _ratio(ours: int | None, peer: int | None) -> float | None:
    return ours / peer if ours is not None and peer else None
