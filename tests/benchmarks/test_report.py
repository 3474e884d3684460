"""Page and console say what the figures say."""

from __future__ import annotations

from typing import Any

import pytest
from contests import Calls, contest, sweep_entry

from benchmarks import report
from benchmarks.measure import goal_figures
from benchmarks.registry import Entry, Goal, Registry

GOALS = (Goal("time", 1.5, 1.0), Goal("memory", 1.2, 0.8, "its memory"))


def registry() -> Registry:
    made = Registry()
    goals = {"cpu": GOALS, "cuda": (Goal("time", 1 / 4, 1 / 10),)}
    made.add(made.cases, Entry("name", "A title", "topic", lambda _: contest(Calls()), goals))
    made.add(made.sweeps, sweep_entry(Calls()))
    return made


def side(name: str, seconds: float) -> dict[str, Any]:
    return {"name": name, "median_s": seconds, "spread": 0.1, "peak_bytes": 3 << 20}


def result(time: float, memory: float | None) -> dict[str, Any]:
    ratios = {"time": time, "memory": memory}
    return {
        "name": "name",
        "title": "A title",
        "status": "measured",
        "shapes": "images [4]",
        "error": 2e-6,
        "tolerance": 1e-4,
        "checked_against": "a definition",
        "notes": ["A note."],
        "sides": [side("ours", 0.5), side("peer", 2.0)],
        "peer": "peer",
        "ratio": ratios,
        "time_ratio_range": [0.2, 0.3],
        "goals": [goal_figures(goal, ratios) for goal in GOALS],
    }


def of_device(device: str, *results: dict[str, Any]) -> dict[str, Any]:
    machine = {"cpu": "a processor", "cores": 2}
    if device == "cuda":
        machine["gpu"] = "a GPU"
    return {
        "device": device,
        "machine": machine,
        "versions": {"torch": "2.11"},
        "threads": 2,
        "date": "2026-01-02",
        "results": list(results),
    }


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(None, "unmeasured"), (1.204, "1.20"), (0.5, "0.50"), (0.025, "0.025 (1/40.0)")],
)
def test_ratio(ratio: float | None, text: str) -> None:
    assert report.ratio_text(ratio) == text


@pytest.mark.parametrize(
    ("threshold", "text"),
    [(1.5, "≤ 1.5"), (1.0, "≤ 1"), (0.8, "≤ 0.8"), (2 / 3, "≤ 0.667"), (1 / 40, "≤ 1/40")],
)
def test_threshold(threshold: float, text: str) -> None:
    assert report.threshold_text(threshold) == text


def test_page_has_goals_figures_and_machine() -> None:
    page = report.render(registry(), "", {"cpu": of_device("cpu", result(0.25, 1.3))})
    assert "a processor, 2 cores, 2 threads; torch 2.11; 2026-01-02" in page
    assert "| A title | time | 0.250 (1/4.0) | ≤ 1.5 | ≤ 1 | aim |" in page
    assert "| its memory | memory | 1.30 | ≤ 1.2 | ≤ 0.8 | missed |" in page
    assert "| ours | 500 ms | ± 5 % | 3 MiB |" in page
    assert "images [4]. Checked against a definition: error 2.0e-06. A note." in page


def test_what_was_not_measured_says_so() -> None:
    page = report.render(registry(), "", {"cpu": of_device("cpu", result(0.9, None))})
    assert "| its memory | memory | unmeasured | ≤ 1.2 | ≤ 0.8 | unmeasured |" in page
    assert "| time per pixel | time | unmeasured |" in page
    gpu = page.partition("## GPU")[2]
    assert "Not measured yet: `make bench-gpu`" in gpu
    assert "| A title | time | unmeasured | ≤ 1/4 | ≤ 1/10 | unmeasured |" in gpu


def test_one_device_leaves_the_others_part_alone() -> None:
    first = report.render(registry(), "", {"cpu": of_device("cpu", result(0.25, 1.3))})
    gpu = {**result(0.2, 0.9), "goals": []}
    both = report.render(registry(), first, {"cuda": of_device("cuda", gpu)})
    start, end = report._marks("cpu")
    assert both.partition(start)[2].partition(end)[0] == first.partition(start)[2].partition(end)[0]
    assert "a GPU; a processor" in both
    assert report.render(registry(), both, {"cuda": of_device("cuda", gpu)}) == both


def test_a_wrong_or_unavailable_result_is_shown_as_such() -> None:
    wrong = {
        "name": "name",
        "title": "A title",
        "status": "wrong result",
        "reason": "the result differs.",
        "goals": [],
    }
    page = report.render(registry(), "", {"cpu": of_device("cpu", wrong)})
    assert "| A title | time | wrong result | ≤ 1.5 | ≤ 1 | wrong result |" in page
    assert "Wrong result: the result differs." in page
    assert report.case_lines(wrong)[1] == "  wrong result: the result differs."


def test_console_has_ratio_and_verdict() -> None:
    lines = "\n".join(report.case_lines(result(1.2, 0.7)))
    assert "error 2.0e-06, allowed 1e-04" in lines
    assert "over peer: time 1.20 (0.2 … 0.3), memory 0.70" in lines
    assert "A title: 1.20; resolved ≤ 1.5, aim ≤ 1: resolved" in lines
    assert "its memory: 0.70; resolved ≤ 1.2, aim ≤ 0.8: aim" in lines
