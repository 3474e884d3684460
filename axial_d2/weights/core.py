"""Converting weights by declarative rules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from axial_d2.weights.report import SHOWN, Report, Tensors
from axial_d2.weights.transfer import fit
from torch import Tensor, nn

__all__ = [
    "Report",
    "Rule",
    "Tensors",
    "WeightsError",
    "apply_rules",
    "backbone_prefix",
    "shapes_of",
    "unchanged",
]


class WeightsError(ValueError):
    """A checkpoint is damaged, or belongs to a model of another width, depth or kind."""


def unchanged(tensor: Tensor) -> Tensor:
    """The layout of a tensor that both sides store alike."""
    return tensor


@dataclass(frozen=True)
class Rule:
    """How one tensor of the target comes about.

    Args:
        source: names of the source tensors that it is made of; several rules may read the same.
        target: name in the target's state dict.
        layout: from the source tensors, in order, to the target tensor; default as it is.
    """

    source: tuple[str, ...]
    target: str
    layout: Callable[..., Tensor] = unchanged


def apply_rules(
    rules: Sequence[Rule],
    source: Mapping[str, Tensor],
    target_shapes: Mapping[str, torch.Size],
    ignore: Sequence[tuple[str, str]] = (),
    *,
    allow_missing: bool = False,
    allow_unused: bool = False,
) -> Report:
    """Makes the target's tensors, and accounts for every tensor on both sides.

    Shapes are those of the target, or change by a rule of :mod:`.transfer`, which the report
    notes.

    Args:
        rules: at most one for each target tensor.
        source: all tensors of the source.
        target_shapes: of all tensors of the target.
        ignore: pairs of a regular expression, searched for in the names of source tensors that
            no rule reads, and the reason why they are left out.
        allow_missing: whether rules may name source tensors that do not exist; default no.
        allow_unused: whether source tensors may be left over without a reason; default no.

    Raises:
        WeightsError: a shape that does not fit, a target that the model lacks, something missing
            or left over; the message lists them.
    """
    report, problems = Report(), []
    used: set[str] = set()
    changes: Counter[str] = Counter()
    for rule in rules:
        assert rule.target not in report.filled, f"two rules fill {rule.target}"
        absent = [name for name in rule.source if name not in source]
        if absent:
            report.missing[rule.target] = absent
            continue
        used.update(rule.source)
        problem = _fill(report, rule, source, target_shapes, changes)
        if problem:
            problems.append(problem)
    report.used = [name for name in source if name in used]
    report.unfilled = [name for name in target_shapes if name not in report.converted]
    report.notes = [f"{count} × {change}" for change, count in changes.items()]
    _account_for_rest(report, source, used, ignore)
    if report.missing and not allow_missing:
        problems += [
            f"{t} needs {', '.join(n)}, not in the source" for t, n in report.missing.items()
        ]
    if report.unused and not allow_unused:
        problems += [f"{name} of the source has no place in the model" for name in report.unused]
    if problems:
        raise WeightsError(f"the weights do not fit the model:\n  {_lines(problems)}")
    return report


def _fill(
    report: Report,
    rule: Rule,
    source: Mapping[str, Tensor],
    target_shapes: Mapping[str, torch.Size],
    changes: Counter[str],
) -> str:
    """Adds one target tensor to the report; returns what is wrong with it, if anything."""
    wanted = target_shapes.get(rule.target)
    names = ", ".join(rule.source)
    if wanted is None:
        return f"{names} becomes {rule.target}, which the model lacks"
    shapes = " and ".join(str(tuple(source[name].shape)) for name in rule.source)
    try:
        tensor = rule.layout(*(source[name] for name in rule.source))
    except (RuntimeError, ValueError, IndexError) as error:
        return f"{names} of shape {shapes} cannot become {rule.target}: {error}"
    fitted = fit(rule.target, tensor, wanted)
    if fitted is None:
        return (
            f"{names} of shape {shapes} comes to {tuple(tensor.shape)}, and {rule.target} has "
            f"{tuple(wanted)}"
        )
    if fitted.tensor is None:
        report.skipped[rule.target] = fitted.change
        return ""
    report.converted[rule.target] = fitted.tensor.detach().contiguous()
    report.filled.append(rule.target)
    if fitted.change:
        changes[fitted.change] += 1
    return ""


def _account_for_rest(
    report: Report, source: Iterable[str], used: set[str], ignore: Sequence[tuple[str, str]]
) -> None:
    patterns = [(re.compile(pattern), reason) for pattern, reason in ignore]
    for name in source:
        if name in used:
            continue
        reason = next((reason for pattern, reason in patterns if pattern.search(name)), None)
        if reason is None:
            report.unused.append(name)
        else:
            report.ignored[name] = reason


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """Shapes of everything in a model's state dict, by name."""
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def backbone_prefix(names: Iterable[str]) -> str:
    """What comes before ``res2.0.…`` in a model's names: "", "backbone.", "backbone.bottom_up.".

    Raises:
        WeightsError: the model has no residual backbone.
    """
    for name in names:
        found = re.match(r"(|.*\.)res2\.0\.", name)
        if found:
            return found.group(1)
    raise WeightsError(
        "the model has no backbone with stages res2 … res5, which these weights belong to; give "
        "the --config-file of a model that has one."
    )


def _lines(problems: Sequence[str]) -> str:
    more = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "\n  ".join(problems[:SHOWN]) + more
