"""Weights under Detectron2's names, which are ours too: its ResNets, and our own checkpoints."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from axial_d2.weights.core import Rule, Tensors, WeightsError, backbone_prefix, shapes_of
from axial_d2.weights.name_tables import COUNTER
from torch import nn

_UNIT = re.compile(r"(stem\.fc|stem|linear|res\d\.\d+)\.")


class Detectron2Format:
    """Backbones in any place of a model, and other parts under the same name.

    Blocks and stems of another kind than the model's (attention for convolution) are left out,
    as are parts that the model lacks; what is of the same kind has to fit completely.
    """

    name = "Detectron2 (ResNets and axial_d2's own)"

    def recognises(self, names: Collection[str]) -> bool:
        return any(re.search(r"(^|\.)res2\.0\.", name) for name in names)

    def rules(self, model: nn.Module, source: Tensors) -> list[Rule]:
        taken, _ = _compare(source, shapes_of(model))
        if not taken:
            raise WeightsError("nothing in the weights is of the same kind as in the model.")
        return [Rule((theirs,), ours) for theirs, ours in taken]

    def ignored(self, model: nn.Module, source: Tensors) -> list[tuple[str, str]]:
        _, ignored = _compare(source, shapes_of(model))
        return [*ignored, (rf"{COUNTER}$", "a counter of batches, which frozen norms lack")]

    def options(self, source: Tensors) -> list[Any]:
        return []

    def notes(self, model: nn.Module) -> list[str]:
        return []


def _compare(
    source: Collection[str], target: Collection[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs of names that belong together, and patterns of what is left out with the reason."""
    theirs, ours = _units(source), _units(target)
    taken, ignored = [], []
    for unit, names in theirs.items():
        pattern = "^(" + "|".join(map(re.escape, names.values())) + ")$"
        if unit not in ours:
            # A block too many in a stage is a model of another depth, not a part left out.
            if not unit.startswith("res"):
                ignored.append((pattern, f"the model has no {unit}"))
            continue
        if _kind(names) != _kind(ours[unit]):
            ignored.append((pattern, f"{unit} of the model is of another kind"))
            continue
        taken += [
            (names.get(rest, f"{unit}.{rest}"), ours[unit][rest])
            for rest in ours[unit]
            if rest in names or not rest.endswith(COUNTER)
        ]
    taken += [
        (f"{unit}.{rest}", name)
        for unit, names in ours.items()
        for rest, name in names.items()
        if unit.startswith("res") and unit not in theirs
    ]
    return taken, ignored


def _units(names: Collection[str]) -> dict[str, dict[str, str]]:
    """Stem, blocks and other parts of a model: the name within each → the whole name."""
    prefix = backbone_prefix(names)
    units: dict[str, dict[str, str]] = {}
    for name in names:
        within = name.removeprefix(prefix) if name.startswith(prefix) else ""
        found = _UNIT.match(within)
        if found:
            unit, rest = found[1], within[found.end() :]
        elif prefix and name.startswith(prefix.split(".")[0] + "."):
            first, second, *others = name.split(".")
            unit, rest = f"{first}.{second}", ".".join(others)
        else:
            unit, _, rest = name.partition(".")
        units.setdefault(unit, {})[rest] = name
    return units


def _kind(names: Iterable[str]) -> set[str]:
    """Modules of a block: conv1, height_axis, … and the shortcut only where the width says so."""
    return {name.split(".")[0] for name in names} - {"shortcut"}
