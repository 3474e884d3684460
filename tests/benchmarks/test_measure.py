"""A wrong result is not timed; the others take turns, and ratios are those of medians."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from contests import CPU, Calls, contest, entry, sweep_entry

from benchmarks import measure
from benchmarks.measure import CheckFailed, measure_case, measure_sweep, time_in_turns
from benchmarks.registry import Contest, Goal

MIB = 1 << 20


@pytest.mark.parametrize("error", [2e-3, math.inf, math.nan])
def test_a_wrong_result_stops_before_anything_is_timed(error: float) -> None:
    calls = Calls()
    with pytest.raises(CheckFailed, match=r"differs from a definition .* Nothing was timed"):
        measure_case(entry(lambda setting: contest(calls, error)), CPU, with_memory=False)
    assert calls.log == ["build ours", "build peer", "build other peer"]


def test_a_wrong_point_stops_a_sweep() -> None:
    with pytest.raises(CheckFailed):
        measure_sweep(sweep_entry(Calls(), error=1.0), CPU, with_memory=False)


def test_sides_take_turns_after_one_call_each() -> None:
    calls = Calls()
    measure_case(entry(lambda setting: contest(calls)), CPU, with_memory=False)
    assert calls.log[3:] == ["ours", "peer", "other peer"] * (1 + measure.QUICK_ROUNDS)


def test_a_check_that_warmed_them_up_spares_that_call() -> None:
    calls = Calls()
    measure_case(entry(lambda setting: contest(calls, warm=True)), CPU, with_memory=False)
    assert calls.log[3:] == ["ours", "peer", "other peer"] * measure.QUICK_ROUNDS


def test_times_are_those_of_the_calls() -> None:
    short, long = time_in_turns([lambda: None, lambda: time.sleep(0.02)], 3, "cpu")
    assert len(short) == len(long) == 3
    assert all(0 <= seconds < 0.02 for seconds in short)
    assert all(seconds >= 0.02 for seconds in long)


def fixed_times(
    monkeypatch: pytest.MonkeyPatch, *seconds: list[float], memory: dict[str, int] | None = None
) -> None:
    monkeypatch.setattr(measure, "time_in_turns", lambda runs, rounds, device: [*seconds])
    if memory is not None:
        monkeypatch.setattr(measure, "peak_memory", lambda name, label, setting: memory[label])


def test_ratios_are_of_medians_over_the_fastest_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = {"ours": 30 * MIB, "peer": 10 * MIB, "other peer": 20 * MIB}
    fixed_times(monkeypatch, [3.0, 9.0, 4.0], [9.0, 8.0, 7.0], [2.0, 6.0, 5.0], memory=memory)
    goals = (Goal("time", 1.0, 0.8), Goal("memory", 2.0, 1.0, "a row of its own"))
    result = measure_case(entry(lambda setting: contest(Calls()), *goals), CPU)
    assert result["peer"] == "other peer"
    assert result["ratio"] == {"time": 4 / 5, "memory": 30 / 20}
    assert result["time_ratio_range"] == [4 / 5, 9 / 6]
    assert [goal["verdict"] for goal in result["goals"]] == ["aim", "resolved"]
    assert result["sides"][0]["spread"] == (9 - 3) / 4


def test_a_goal_on_memory_that_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_times(monkeypatch, [1.0], [1.0], [1.0])
    case = entry(lambda setting: contest(Calls()), Goal("memory", 1.0, 1.0))
    (goal,) = measure_case(case, CPU, with_memory=False)["goals"]
    assert (goal["ratio"], goal["verdict"]) == (None, "unmeasured")


def test_growth_is_of_time_over_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_times(monkeypatch, [1.0], [4.4], [1.0], [9.0])
    (goal,) = measure_sweep(sweep_entry(Calls()), CPU, with_memory=False)["goals"]
    assert goal["ratio"] == pytest.approx(1.1)
    assert goal["verdict"] == "aim"


# In a process of its own, as it is used: freed memory of others would have room for the tensor.
PROGRAM = """
import torch
from benchmarks.peak_memory import measure_here
from benchmarks.registry import Side

def keeps(size):
    return Side("", lambda: lambda: torch.ones(size, dtype=torch.uint8))

measure_here(keeps(1), 1, "cpu")
print(measure_here(keeps(64 * 2**20), 1, "cpu"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts resident memory")
def test_peak_memory_sees_what_a_call_allocates() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 60 * MIB < int(result.stdout) < 90 * MIB


def test_a_contest_needs_no_peak_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(setting: object) -> Contest:
        return contest(Calls(), calls_for_peak=0)

    monkeypatch.setattr(measure, "peak_memory", lambda *args: pytest.fail("measured"))
    result = measure_case(entry(build), CPU)
    assert {side["peak_bytes"] for side in result["sides"]} == {None}
