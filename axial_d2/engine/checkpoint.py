"""Checkpoints that fit, or an error that says what does not."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import Tensor

SHOWN = 8
ROLE = "MODEL.WEIGHTS, or the checkpoint to resume from"


class WeightsError(ValueError):
    """A checkpoint is damaged, or belongs to a model of another width, depth or kind."""


class StrictCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which warns and trains on where weights do not fit; this raises.

    A checkpoint may lack a whole part of the model (a pretrained backbone has no heads) and may
    hold parts that the model lacks (a classifier). Predictors of another number of classes are
    left at their initial values, with a warning. Batch counters, which frozen norms lack, do not
    matter. Anything else that is missing, left over or of another shape raises. Detectron2's name
    matching for converted ``.pkl`` files stays as it is.

    Raises (in ``load``):
        FileNotFoundError: there is no such file.
        WeightsError: the file cannot be read; or lists the keys that do not fit, with the shapes
            in the checkpoint and in the model.
    """

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        is_local = path and "://" not in path
        # git main takes options behind a question mark.
        if is_local and comm.is_main_process() and not os.path.isfile(path.partition("?")[0]):
            raise FileNotFoundError(f"{ROLE}, is {path}, which does not exist.")
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            loaded = super()._load_file(filename)
        except Exception as error:  # torch, pickle and zipfile raise anything on a damaged file
            raise WeightsError(
                f"{filename} ({ROLE}) cannot be read: {type(error).__name__}: {error}. It may be "
                "incomplete, or no checkpoint at all; give another file."
            ) from error
        _require_tensors(filename, loaded["model"])
        self._file = filename
        return loaded

    def _load_model(self, checkpoint: Any) -> Any:
        matched_by_name = not checkpoint.get("matching_heuristics", False)
        keys = [key.removeprefix("module.") for key in checkpoint["model"]]
        incompatible = super()._load_model(checkpoint)
        if matched_by_name:
            _require_fit(self._file, keys, self.model.state_dict().keys(), incompatible)
        return incompatible


def _require_tensors(file: str, model: Any) -> None:
    if isinstance(model, Mapping):
        if all(isinstance(value, (Tensor, np.ndarray)) for value in model.values()):
            return
        found = f"a mapping with {[str(key) for key in model][:SHOWN]}"
    else:
        found = f"a {type(model).__name__}"
    raise WeightsError(
        f"{file} ({ROLE}) holds {found}; a checkpoint holds a mapping from parameter names to "
        "tensors, perhaps under the key 'model'."
    )


def _require_fit(
    file: str, checkpoint_keys: list[str], model_keys: Iterable[str], incompatible: Any
) -> None:
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
            names = [
                name
                for name in names
                if name not in reported and not name.endswith("num_batches_tracked")
            ]
            if part in common_parts and names:
                problems.append(f"{len(names)} keys of {part} {what}, such as {names[0]}")
    if problems:
        listed = "\n  ".join(problems[:SHOWN])
        more = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise WeightsError(
            f"{file} ({ROLE}) does not fit this model:\n  "
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
