"""The account of what a conversion did with every tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

Tensors = dict[str, Tensor]
SHOWN = 8
# Of a batch norm; nothing reads it where the norm has a momentum.
COUNTER = "num_batches_tracked"


@dataclass
class Report:
    """What became of every tensor of a source, and where every tensor of a target comes from.

    Attributes:
        converted: the target's tensors, by name.
        used: source tensors that rules read.
        ignored: source tensors that are left out on purpose, with the reason.
        unused: source tensors that no rule reads and no reason leaves out.
        filled: target tensors that got a value.
        skipped: target tensors that keep their initial value although the source has one, with
            the reason.
        missing: target tensors whose source tensors do not exist, with the names of those.
        unfilled: every target tensor without a value, ``skipped`` and ``missing`` among them.
        notes: what else was done, such as tables that grew.
    """

    converted: Tensors = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    unfilled: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report for people: counts, the reasons with their counts, and lists where short."""
        size = sum(tensor.numel() for tensor in self.converted.values())
        lines = [
            f"used     {_tensors(self.used)} of the source",
            f"filled   {_tensors(self.filled)} of the model, {size:,} numbers",
        ]
        lines += [f"ignored  {line}" for line in _by_reason(self.ignored)]
        lines += [f"skipped  {line}" for line in _by_reason(self.skipped)]
        if self.unused:
            lines.append(f"UNUSED   {_tensors(self.unused)} of the source: {_shown(self.unused)}")
        if self.missing:
            wanted = sorted({name for names in self.missing.values() for name in names})
            lines.append(f"MISSING  {_tensors(wanted)} of the source: {_shown(wanted)}")
        others = [n for n in self.unfilled if n not in self.missing and n not in self.skipped]
        counters = [name for name in others if name.endswith(COUNTER)]
        if counters:
            lines.append(
                f"unfilled {_tensors(counters)} of the model that count batches, which the source "
                "does not and which changes no result"
            )
            others = [name for name in others if name not in set(counters)]
        if others:
            parts = Counter(".".join(name.split(".")[:2]) for name in others)
            listed = _shown([f"{part} ({count})" for part, count in parts.items()])
            lines.append(
                f"unfilled {_tensors(others)} of the model, which the source lacks: {listed}"
            )
        lines += [f"note     {note}" for note in self.notes]
        return "\n".join(lines)


def _tensors(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def _by_reason(reasons: Mapping[str, str]) -> list[str]:
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    return [
        f"{_tensors(names)} ({_shown(names, 2)}): {reason}" for reason, names in grouped.items()
    ]


def _shown(names: Sequence[str], most: int = SHOWN) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
