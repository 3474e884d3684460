"""Contests of nothing but counted calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.registry import Contest, Entry, Goal, Growth, Points, Setting, Side

CPU = Setting("cpu", quick=True)


class Calls:
    """What was built and called, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def side(self, name: str) -> Side:
        def build() -> Callable[[], str]:
            self.log.append(f"build {name}")
            return run

        def run() -> str:
            self.log.append(name)
            return name

        return Side(name, build)


def contest(calls: Calls, error: float = 0.0, **options: Any) -> Contest:
    return Contest(
        calls.side("ours"),
        [calls.side("peer"), calls.side("other peer")],
        lambda ours, peers: error,
        tolerance=1e-3,
        checked_against="a definition",
        shapes="no tensors",
        **options,
    )


def entry(build: Callable[[Setting], Contest], *goals: Goal) -> Entry[Contest]:
    return Entry("name", "A title", "topic", build, {"cpu": goals})


def sweep_entry(calls: Calls, error: float = 0.0) -> Entry[Points]:
    def build(setting: Setting) -> Points:
        keys = [(series, x) for series in ("short", "long") for x in (10.0, 20.0)]
        return Points(
            {key: calls.side(f"{key[0]} {key[1]:g}") for key in keys},
            lambda series, run: error,
            tolerance=1e-3,
            checked_against="a definition",
            shapes="no tensors",
        )

    growth = Growth("short", 10.0, Goal("time", 1.15, 1.15, "time per pixel"))
    return Entry("sweep", "A sweep", "topic", build, {"cpu": ()}, "side", growth)
