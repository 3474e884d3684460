"""A trained backbone for a model that has it in another place, or behind another stem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from axial_d2.weights.core import Tensors
from axial_d2.weights.report import COUNTER

PART = "backbone."
# What reads the stem: 1×1 convolutions, of which the second may be missing where channels agree.
_READERS = re.compile(r"res2\.0\.(conv1|shortcut)\.")
Shapes = Mapping[str, Sequence[int]]


@dataclass
class Transfer:
    """Weights for a model.

    Attributes:
        weights: by the model's names, whatever of the source the model may take.
        kept: names of the model whose initial values stay.
        notes: what was done, in words.
    """

    weights: Tensors
    kept: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def transfer_backbone(source: Tensors, target: Shapes) -> Transfer:
    """Puts the backbone of a checkpoint where a model has it.

    Models with a feature pyramid have their backbone in ``backbone.bottom_up``, others in
    ``backbone``; the pyramid is left out, or keeps its initial values. Where the backbone is all
    that checkpoint and model have in common, last stages that the model lacks are left out, and
    the stems may differ: the model's then keeps its initial values, and so do the convolutions of
    the first block that read another number of channels from it.

    Args:
        source: tensors in our names.
        target: shapes in the model, by name.
    """
    result = Transfer(dict(source))
    theirs, ours = _place(source), _place(target)
    if theirs is None or ours is None:
        return result
    if theirs != ours:
        _move(result, theirs, ours, target)
    if _parts(source) & _parts(target) == {PART.rstrip(".")}:
        _leave_stem(result, ours, target)
        _leave_stages(result, ours, target)
    return result


def _place(names: Iterable[str]) -> str | None:
    """ "backbone." or "backbone.bottom_up."; None where there is no residual backbone in either."""
    for name in names:
        found = re.match(r"(backbone\.(bottom_up\.)?)res2\.0\.", name)
        if found:
            return found[1]
    return None


def _parts(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _move(result: Transfer, theirs: str, ours: str, target: Shapes) -> None:
    moved, pyramid = {}, 0
    for name, tensor in result.weights.items():
        if name.startswith(theirs):
            moved[ours + name.removeprefix(theirs)] = tensor
        elif name.startswith(PART):
            pyramid += 1
        else:
            moved[name] = tensor
    result.weights = moved
    own = {name for name in target if name.startswith(PART) and not name.startswith(ours)}
    result.kept |= own
    what = "keeps its initial values" if own else "is left out"
    result.notes.append(
        f"the backbone goes from {theirs}* to {ours}*, and the feature pyramid "
        f"({len(own) or pyramid} tensors) {what}"
    )


def _leave_stem(result: Transfer, prefix: str, target: Shapes) -> None:
    given = {name: tuple(tensor.shape) for name, tensor in result.weights.items()}
    wanted = {name: tuple(shape) for name, shape in target.items()}
    stems = [
        {n: s for n, s in shapes.items() if n.startswith(f"{prefix}stem.") and COUNTER not in n}
        for shapes in (given, wanted)
    ]
    if not all(stems) or stems[0] == stems[1]:
        return  # a file without any stem is an incomplete one
    names = given.keys() | wanted.keys()
    differing = {name for name in names if given.get(name) != wanted.get(name)}
    left = {
        name
        for name in names
        if name.startswith(f"{prefix}stem.")
        or (_READERS.match(name.removeprefix(prefix)) and name in differing)
    }
    for name in left & given.keys():
        del result.weights[name]
    result.kept |= left & wanted.keys()
    readers = sorted(name for name in left if not name.startswith(f"{prefix}stem."))
    also = f", and {', '.join(readers)}, which read it," if readers else ""
    result.notes.append(
        f"the stems of checkpoint and model differ: the model's{also} keeps its initial values"
    )


def _leave_stages(result: Transfer, prefix: str, target: Shapes) -> None:
    """Those behind the model's last one; a model that reads res4 builds no res5."""
    last = max(_stages(target, prefix))
    for stage in sorted(_stages(result.weights, prefix)):
        if stage > last:
            start = f"{prefix}res{stage}."
            result.weights = {n: t for n, t in result.weights.items() if not n.startswith(start)}
            result.notes.append(f"the model has no res{stage}, which is left out")


def _stages(names: Iterable[str], prefix: str) -> set[int]:
    pattern = re.compile(rf"{re.escape(prefix)}res(\d)\.")
    return {int(found[1]) for name in names if (found := pattern.match(name))}
