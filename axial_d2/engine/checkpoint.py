"""Checkpoints that fit, or an error that says what does not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

SHOWN = 8


class WeightsError(ValueError):
    """A checkpoint belongs to a model of another width, depth or kind."""


class StrictCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which warns and trains on where weights do not fit; this raises.

    A checkpoint may lack a whole part of the model (a pretrained backbone has no heads) and may
    hold parts that the model lacks (a classifier). Predictors of another number of classes are
    left at their initial values, with a warning. Anything else that is missing, left over or of
    another shape raises. Detectron2's name matching for converted ``.pkl`` files stays as it is.

    Raises (in ``load``):
        WeightsError: lists the keys, with the shapes in the checkpoint and in the model.
    """

    def _load_model(self, checkpoint: Any) -> Any:
        matched_by_name = not checkpoint.get("matching_heuristics", False)
        keys = [key.removeprefix("module.") for key in checkpoint["model"]]
        incompatible = super()._load_model(checkpoint)
        if matched_by_name:
            _require_fit(keys, self.model.state_dict().keys(), incompatible)
        return incompatible


def _require_fit(checkpoint_keys: list[str], model_keys: Iterable[str], incompatible: Any) -> None:
    problems = [
        f"{key}: {tuple(given)} in the checkpoint, {tuple(wanted)} in the model"
        for key, given, wanted in incompatible.incorrect_shapes
        if "predictor" not in key
    ]
    common_parts = {_part(key) for key in checkpoint_keys} & {_part(key) for key in model_keys}
    if not common_parts:
        problems.append(
            f"no part in common: the checkpoint has {sorted({_part(k) for k in checkpoint_keys})}, "
            f"the model {sorted({_part(k) for k in model_keys})}"
        )
    reported = {key for key, *_ in incompatible.incorrect_shapes}
    for what, keys in (
        ("not in the checkpoint", incompatible.missing_keys),
        ("not in the model", incompatible.unexpected_keys),
    ):
        for part, names in _by_part(keys).items():
            names = [name for name in names if name not in reported]
            if part in common_parts and names:
                problems.append(f"{len(names)} keys of {part} {what}, such as {names[0]}")
    if problems:
        listed = "\n  ".join(problems[:SHOWN])
        more = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise WeightsError(
            "MODEL.WEIGHTS (or the checkpoint to resume from) does not fit this model:\n  "
            f"{listed}{more}\nUse the config that the weights were trained with (width, depth, "
            "stem, tables), or other weights."
        )


def _part(key: str) -> str:
    return key.split(".")[0]


def _by_part(keys: Iterable[str]) -> dict[str, list[str]]:
    parts = defaultdict(list)
    for key in keys:
        parts[_part(key)].append(key)
    return parts
