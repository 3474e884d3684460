"""What is measured: cases against peers, and sweeps for plots.

A new case is a function under :func:`case` in a file of its topic that :data:`TOPICS` names. It
gets a :class:`Setting` and returns a :class:`Contest`. The runner then checks, times and measures.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

Run = Callable[[], Any]

# Files of cases, in the order in which they run; those that do not exist are left out.
TOPICS = (
    "backbone",
    "checkpointing",
    "panoptic",
    "postprocessing",
    "attention",
    "dual_attention",
    "scale_attention",
    "memory",
    "gpu_axial_layer",
)
DEVICES = ("cpu", "cuda")


class Unavailable(Exception):
    """Raised by a case that cannot run on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Setting:
    """What a case is built for.

    Args:
        device: "cpu" or "cuda".
        quick: tiny sizes, to see that everything runs; its figures mean nothing.
    """

    device: str
    quick: bool = False

    def size(self, full: Any, quick: Any) -> Any:
        """One of the two, whatever it is."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Goal:
    """A threshold on the ratio ours / peer.

    Args:
        quantity: "time" or "memory".
        resolved_at: the ratio at most for the issue to be resolved.
        aim: what we want.
        row: the issue's name for it; empty for the case's title.
    """

    quantity: str
    resolved_at: float
    aim: float
    row: str = ""

    def verdict(self, ratio: float) -> str:
        """ "aim", "resolved" or "missed"."""
        if ratio <= self.aim:
            return "aim"
        return "resolved" if ratio <= self.resolved_at else "missed"


@dataclass(frozen=True)
class Side:
    """One of the contestants.

    Args:
        name: what the report calls it.
        build: makes everything and returns what is timed. Ours is built first, then the check
            runs; in a fresh process for the peak memory, only this is.
    """

    name: str
    build: Callable[[], Run]


@dataclass(frozen=True)
class Contest:
    """Ours and its peers, ready to be built.

    Args:
        ours: our side.
        peers: their sides; the fastest of the run counts.
        check: from our run and the peers' to the error, compared with ``tolerance``.
        tolerance: the largest error with which anything is timed.
        checked_against: what the check compares with.
        shapes: sizes of the inputs, in words.
        notes: whatever else a reader has to know, a sentence each.
        rounds: how often every side is timed.
        warm: whether the check has called all that is timed, so that no other call comes first.
        calls_for_peak: of a run, for its peak memory; 0 leaves that out.
    """

    ours: Side
    peers: Sequence[Side]
    check: Callable[[Run, Sequence[Run]], float]
    tolerance: float
    checked_against: str
    shapes: str
    notes: Sequence[str] = ()
    rounds: int = 7
    warm: bool = False
    calls_for_peak: int = 1


@dataclass(frozen=True)
class Points:
    """The points of a sweep, ready to be built.

    Args:
        sides: (series, x) → what is timed there.
        check: from a run at the first point of a series, and its series, to the error.
        tolerance, checked_against, shapes, rounds: as in a :class:`Contest`.
    """

    sides: Mapping[tuple[str, float], Side]
    check: Callable[[str, Run], float]
    tolerance: float
    checked_against: str
    shapes: str
    rounds: int = 3


@dataclass(frozen=True)
class Growth:
    """A threshold on how much time over x² grows along one series.

    Args:
        series: of the sweep.
        start: the x to compare the last with.
        goal: on time / x² at the last x over that at ``start``.
    """

    series: str
    start: float
    goal: Goal


Build = TypeVar("Build", Contest, Points)


@dataclass(frozen=True)
class Entry(Generic[Build]):
    """A registered case or sweep.

    Args:
        name: for ``--only``.
        title: one line.
        topic: its file.
        build: makes the contest or the points.
        goals: of every device that it runs on; none for a figure of interest.
        x_label: of a sweep.
        growth: of a sweep, or None.
    """

    name: str
    title: str
    topic: str
    build: Callable[[Setting], Build]
    goals: Mapping[str, Sequence[Goal]]
    x_label: str = ""
    growth: Growth | None = None


@dataclass
class Registry:
    """Cases and sweeps by name, in order of registration."""

    cases: dict[str, Entry[Contest]] = field(default_factory=dict)
    sweeps: dict[str, Entry[Points]] = field(default_factory=dict)

    def add(self, entries: dict[str, Entry], entry: Entry) -> None:
        if entry.name in self.cases or entry.name in self.sweeps:
            raise ValueError(f"two benchmarks are called {entry.name!r}; rename one of them.")
        unknown = set(entry.goals) - set(DEVICES)
        if unknown:
            raise ValueError(f"{entry.name}: devices {unknown} are not among {DEVICES}.")
        entries[entry.name] = entry

    def entries(self) -> list[Entry]:
        return [*self.cases.values(), *self.sweeps.values()]

    def select(self, device: str, only: Sequence[str]) -> Registry:
        """Those for a device, and of them those whose name or topic is asked for, if any is.

        Raises:
            ValueError: a name that does not exist, or not for this device.
        """
        every = self.entries()
        known = {
            label for entry in every if device in entry.goals for label in (entry.name, entry.topic)
        }
        unknown = [name for name in only if name not in known]
        if unknown:
            raise ValueError(
                f"--only {', '.join(unknown)} is no benchmark or topic for {device}; there are "
                f"{', '.join(sorted(known))}."
            )

        def wanted(entry: Entry) -> bool:
            return device in entry.goals and (
                not only or not {entry.name, entry.topic}.isdisjoint(only)
            )

        return Registry(
            {name: entry for name, entry in self.cases.items() if wanted(entry)},
            {name: entry for name, entry in self.sweeps.items() if wanted(entry)},
        )


REGISTRY = Registry()


def case(
    name: str, title: str, goals: Mapping[str, Sequence[Goal]]
) -> Callable[[Callable[[Setting], Contest]], Callable[[Setting], Contest]]:
    """Registers a function that makes a :class:`Contest`; arguments of :class:`Entry`."""

    def register(build: Callable[[Setting], Contest]) -> Callable[[Setting], Contest]:
        REGISTRY.add(REGISTRY.cases, Entry(name, title, _topic(build), build, goals))
        return build

    return register


def sweep(
    name: str,
    title: str,
    x_label: str,
    devices: Sequence[str] = DEVICES,
    growth: Growth | None = None,
) -> Callable[[Callable[[Setting], Points]], Callable[[Setting], Points]]:
    """Registers a function that makes :class:`Points`; arguments of :class:`Entry`."""

    def register(build: Callable[[Setting], Points]) -> Callable[[Setting], Points]:
        goals: dict[str, Sequence[Goal]] = dict.fromkeys(devices, ())
        entry = Entry(name, title, _topic(build), build, goals, x_label, growth)
        REGISTRY.add(REGISTRY.sweeps, entry)
        return build

    return register


def _topic(build: Callable) -> str:
    return build.__module__.rpartition(".")[2]


def load() -> Registry:
    """Imports all files of cases, which registers them."""
    for topic in TOPICS:
        if (Path(__file__).parent / f"{topic}.py").is_file():
            importlib.import_module(f"benchmarks.{topic}")
    return REGISTRY
