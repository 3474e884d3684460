"""Pairs of names, ours and those of ResNet-like checkpoints, and the rules that they make."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from axial_d2.weights.core import Rule, unchanged
from axial_d2.weights.report import COUNTER
from torch import Tensor

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Pair:
    """A tensor of ours and theirs, and the layouts from either to the other."""

    ours: str
    theirs: str
    to_ours: Callable[[Tensor], Tensor] = unchanged
    to_theirs: Callable[[Tensor], Tensor] = unchanged

    def within(self, ours: str, theirs: str) -> Pair:
        """The same pair inside of a stem or block with these names."""
        return Pair(ours + self.ours, theirs + self.theirs, self.to_ours, self.to_theirs)

    def rule_to_ours(self) -> Rule:
        return Rule((self.theirs,), self.ours, self.to_ours)

    def rule_to_theirs(self) -> Rule:
        return Rule((self.ours,), self.theirs, self.to_theirs)


def classifier_pairs(names: Collection[str], prefix: str) -> list[Pair]:
    """The last layer ``fc``, from the model's root: our ``linear`` in the backbone or beside it.

    Args:
        names: of the model's tensors; empty result where they have no such layer.
        prefix: of the backbone's names.
    """
    places = [place for place in (prefix, "") if f"{place}linear.weight" in names]
    return [Pair(f"{p}linear.{t}", f"fc.{t}") for p in places[:1] for t in ("weight", "bias")]


def norm_pairs(
    ours: str,
    theirs: str,
    to_ours: Callable[[Tensor], Tensor] = unchanged,
    to_theirs: Callable[[Tensor], Tensor] = unchanged,
) -> list[Pair]:
    """The tensors of a batch norm; the layouts are of those with one value a channel."""
    pairs = [
        Pair(f"{ours}.{name}", f"{theirs}.{name}", to_ours, to_theirs)
        for name in NORM_TENSORS
        if name != COUNTER
    ]
    return [*pairs, Pair(f"{ours}.{COUNTER}", f"{theirs}.{COUNTER}")]


def conv_pairs(ours: str, conv: str, norm: str) -> list[Pair]:
    """A convolution with its batch norm, which in our names is part of it."""
    return [Pair(f"{ours}.weight", f"{conv}.weight"), *norm_pairs(f"{ours}.norm", norm)]


@dataclass(frozen=True, order=True)
class Block:
    """A residual block: the stage's number, 2 to 5, and its index in the stage."""

    stage: int
    index: int

    @property
    def ours(self) -> str:
        return f"res{self.stage}.{self.index}."

    @property
    def theirs(self) -> str:
        return f"layer{self.stage - 1}.{self.index}."


def our_blocks(names: Iterable[str], prefix: str = "") -> list[Block]:
    """Blocks under ``prefix`` in our names, in order."""
    return _blocks(names, rf"{re.escape(prefix)}res(\d)\.(\d+)\.", 0)


def their_blocks(names: Iterable[str]) -> list[Block]:
    """Blocks of a checkpoint with ``layer1`` … ``layer4``, in order."""
    return _blocks(names, r"layer(\d)\.(\d+)\.", 1)


def _blocks(names: Iterable[str], pattern: str, shift: int) -> list[Block]:
    matches = (re.match(pattern, name) for name in names)
    return sorted({Block(int(m[1]) + shift, int(m[2])) for m in matches if m})


def blocks_per_stage(blocks: Sequence[Block]) -> tuple[int, ...]:
    """How many blocks each of res2 … res5 has."""
    return tuple(sum(block.stage == stage for block in blocks) for stage in (2, 3, 4, 5))


def without_lonely_counters(
    rules: Iterable[Rule], source: Iterable[str], target: Iterable[str]
) -> Iterator[Rule]:
    """Leaves out rules for batch counters that one side lacks: frozen norms count no batches."""
    source, target = set(source), set(target)
    for rule in rules:
        counts = rule.target.endswith(COUNTER)
        if not counts or (rule.target in target and set(rule.source) <= source):
            yield rule
