"""The formats of weights that axial_d2 reads, and the conversion of any of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from axial_d2.weights.authors import AuthorsFormat
from axial_d2.weights.core import Report, Rule, Tensors, WeightsError, apply_rules, shapes_of
from axial_d2.weights.deeplab2 import DeepLab2Format
from axial_d2.weights.detectron2_names import Detectron2Format
from axial_d2.weights.resnet import TorchvisionFormat
from axial_d2.weights.vgg import TorchvisionVGGFormat
from torch import nn


class Format(Protocol):
    """A layout of checkpoints.

    Attributes:
        name: in :data:`FORMATS` and in messages.
    """

    name: str

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a checkpoint with tensors of these names has this format."""

    def rules(self, model: nn.Module, source: Tensors) -> list[Rule]:
        """Rules that fill ``model``, or what of it the source has.

        Raises:
            WeightsError: the model is of another kind than those the source belongs to.
        """

    def ignored(self, model: nn.Module, source: Tensors) -> list[tuple[str, str]]:
        """Regular expressions of source names that are left out, each with the reason."""

    def options(self, source: Tensors) -> list[Any]:
        """KEY VALUE pairs of the config whose backbone these weights belong to.

        For sources that come without a config; empty where a config has to be given.
        """

    def notes(self, model: nn.Module) -> list[str]:
        """What of ``model`` that no shape shows differs from what the weights were trained with."""


# A new format is a line here.
FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        AuthorsFormat(),
        DeepLab2Format(),
        TorchvisionFormat(),
        TorchvisionVGGFormat(),
        Detectron2Format(),
    )
}
# Known and of no use: the name of a tensor that gives them away, and why.
REFUSED = {
    "res2_0_branch2a_w": "these are Caffe2's (MSRA) ResNet weights, which stride in the first 1×1 "
    "convolution of a block while ours strides in the 3×3 one; take torchvision's ResNet-50.",
}


def recognise(names: Collection[str]) -> Format:
    """The format of a checkpoint with tensors of these names.

    Raises:
        WeightsError: none of :data:`FORMATS`, or one of :data:`REFUSED`.
    """
    for name, reason in REFUSED.items():
        if name in names:
            raise WeightsError(reason)
    known = _find(names)
    if known is not None:
        return known
    shown = ", ".join(sorted(names)[:5])
    raise WeightsError(
        f"the checkpoint has {len(names)} tensors ({shown}, …), which is none of the known "
        f"formats: {', '.join(FORMATS)}."
    )


def is_known(names: Collection[str]) -> bool:
    """Whether :func:`recognise` has an answer, if only that the weights are of no use."""
    return _find(names) is not None or any(name in REFUSED for name in names)


def _find(names: Collection[str]) -> Format | None:
    return next((known for known in FORMATS.values() if known.recognises(names)), None)


def convert(source: Tensors, model: nn.Module) -> Report:
    """Converts weights of whichever format to the names and layouts of ``model``.

    Args:
        source: as :func:`.read_tensors` returns them.
        model: whose state dict gives names and shapes; its values are not read and may be on
            the meta device.

    Raises:
        WeightsError: an unknown format, or weights that do not fit the model.
    """
    known = recognise(source.keys())
    try:
        rules, ignored = known.rules(model, source), known.ignored(model, source)
        report = apply_rules(rules, source, shapes_of(model), ignored)
    except WeightsError as error:
        raise WeightsError(f"{error}{_hint(known, source)}") from error
    report.notes += known.notes(model)
    return report


def _hint(known: Format, source: Tensors) -> str:
    """The config that the weights belong to, where the format knows."""
    try:
        options = " ".join(map(str, known.options(source)))
    except WeightsError as error:
        return f"\n{error}"
    return f"\nThese weights ({known.name}) belong to {options}" if options else ""
