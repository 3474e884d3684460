"""Checkpoints that fit, or an error that says what does not."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import torch
from axial_d2.engine.ema import EMAHook
from axial_d2.weights.backbones import transfer_backbone
from axial_d2.weights.core import WeightsError
from axial_d2.weights.formats import convert, is_known
from axial_d2.weights.reading import UNFILLED, is_tensorflow, read_file, tensors_in
from axial_d2.weights.transfer import fit, has_other_classes
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import Tensor, nn

__all__ = ["StrictCheckpointer", "WeightsError"]

SHOWN = 8
ROLE = "MODEL.WEIGHTS, or the checkpoint to resume from"

logger = logging.getLogger(__name__)


class StrictCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which warns and trains on where weights do not fit; this raises.

    Reads ``.pth`` and ``.safetensors`` files of ours, and weights of any known format
    (:data:`axial_d2.weights.formats.FORMATS`) such as the authors' ``.pth``, which it converts;
    no file can run code.

    A checkpoint may lack a whole part of the model (a pretrained backbone has no heads) and may
    hold parts that the model lacks (a classifier). Predictors of another number of classes are
    left at their initial values, with a warning; position tables of another length grow or
    shrink (:mod:`axial_d2.weights.transfer`), with a warning, unless an optimizer's state is
    restored with them; likewise the backbone moves into or out of a feature pyramid, and where
    nothing but the backbone is common to both, another stem keeps its initial values
    (:mod:`axial_d2.weights.backbones`). Batch counters, which frozen norms lack, do not matter.
    Anything else that is missing, left over or of another shape raises. Detectron2's name matching
    for converted ``.pkl`` files stays as it is, but it is an error where nothing matches. What a
    conversion could not fill may be missing, with a warning.

    Raises (in ``load``):
        FileNotFoundError: there is no such file.
        WeightsError: the file cannot be read; or lists the keys that do not fit, with the shapes
            in the checkpoint and in the model.
    """

    # The average of the model's weights, which is saved as the model; None saves the model.
    ema: EMAHook | None = None
    model: nn.Module
    # Names beside the model's that the file at hand is asked for, such as "trainer".
    _restored: Sequence[str] = ()

    def save(self, name: str, **kwargs: Any) -> None:
        trained = self.model
        if self.ema is not None:
            self.model = self.ema.model
        try:
            super().save(name, **kwargs)
        finally:
            self.model = trained

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        if path and "://" not in path and comm.is_main_process():
            # git main takes options behind a question mark.
            _require_file(Path(path.partition("?")[0]))
        self._restored = list(self.checkpointables) if checkpointables is None else checkpointables
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        self._file = filename
        try:
            # Nothing but arrays is read from pickles, so naming one here is no risk.
            loaded = read_file(filename, allow_pickle=True)
        except WeightsError as error:
            raise WeightsError(f"{ROLE}: {error}") from error
        if filename.endswith((".pkl", ".pyth")):
            loaded = super()._load_file(filename)  # which the line above found harmless
        elif isinstance(loaded, Mapping) and "model" in loaded:
            loaded = dict(loaded)
        elif isinstance(loaded, Mapping) and "state_dict" in loaded:
            loaded = {"model": tensors_in(loaded, filename)}
        else:
            loaded = {"model": loaded}
        _require_tensors(filename, loaded["model"])
        if self._asks_for_matching():
            loaded["matching_heuristics"] = True
        self._left_out = set(loaded.get(UNFILLED, ()))
        if not loaded.get("matching_heuristics", False):
            loaded["model"] = self._converted(loaded["model"])
            if not self._restores(loaded):
                self._transfer(loaded)
        return loaded

    def _restores(self, checkpoint: Mapping[str, Any]) -> bool:
        """Whether an optimizer's state or the like is restored with the weights."""
        return any(key in checkpoint for key in self._restored)

    def _transfer(self, loaded: dict[str, Any]) -> None:
        """The backbone to where the model has it, and behind another stem, in place."""
        shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        transfer = transfer_backbone(tensors_in(loaded["model"], self._file), shapes)
        for note in transfer.notes:
            logger.warning("%s: %s", self._file, note)
        if transfer.notes:
            loaded["model"] = transfer.weights
            self._left_out |= transfer.kept

    def _asks_for_matching(self) -> bool:
        """Whether the path ends in git main's ``?matching_heuristics=True``."""
        url = getattr(self, "_parsed_url_during_load", None)
        return url is not None and parse_qs(url.query).get("matching_heuristics") == ["True"]

    def _converted(self, weights: Mapping[str, Any]) -> Mapping[str, Any]:
        """Weights in our names, from whichever known format they have."""
        tensors = tensors_in(weights, self._file)
        names = self.model.state_dict().keys()
        if {_part(name) for name in tensors} & {_part(name) for name in names}:
            return weights
        if not is_known(tensors):
            return weights
        try:
            report = convert(tensors, self.model)
        except WeightsError as error:
            raise WeightsError(f"{self._file} ({ROLE}): {error}") from error
        logger.info("converted %s:\n%s", self._file, report.text())
        self._left_out = set(report.unfilled)
        return report.converted

    def _load_model(self, checkpoint: Any) -> Any:
        matched_by_name = not checkpoint.get("matching_heuristics", False)
        keys = [key.removeprefix("module.") for key in checkpoint["model"]]
        if matched_by_name and not self._restores(checkpoint):
            self._fit_tables(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        if matched_by_name:
            names = self.model.state_dict().keys()
            _require_fit(self._file, keys, names, incompatible, self._left_out)
        else:
            self._require_matches(incompatible)
        return incompatible

    def _require_matches(self, incompatible: Any) -> None:
        """That Detectron2's matching by names, which only warns, found any."""
        misfits = {key for key, *_ in incompatible.incorrect_shapes}
        lost = misfits | set(incompatible.missing_keys)
        if all(key in lost for key, _ in self.model.named_parameters()):
            raise WeightsError(
                f"{self._file} ({ROLE}): no name in it matches one of the model's, so nothing "
                "would be loaded; tools/convert_weights.py … --allow-pickle says what it is."
            )

    def _fit_tables(self, weights: Any) -> None:
        """Position tables of another length, in place."""
        shapes = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        changes: Counter[str] = Counter()
        for key, value in weights.items():
            shape = shapes.get(key.removeprefix("module."))
            fitted = None if shape is None else fit(key, torch.as_tensor(value), shape)
            if fitted is not None and fitted.tensor is not None and fitted.change:
                weights[key] = fitted.tensor
                changes[fitted.change] += 1
        for change, count in changes.items():
            logger.warning("%s: %d × %s", self._file, count, change)


def _require_file(path: Path) -> None:
    if path.is_file():
        return
    if is_tensorflow(path):
        raise WeightsError(
            f"{ROLE}, is {path}, a TensorFlow checkpoint or a folder; convert it with "
            "tools/convert_weights.py (docs/weights.md) and give the file that it writes."
        )
    raise FileNotFoundError(f"{ROLE}, is {path}, which does not exist.")


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
    file: str,
    checkpoint_keys: list[str],
    model_keys: Iterable[str],
    incompatible: Any,
    left_out: set[str],
) -> None:
    problems = [
        f"{key}: {tuple(given)} in the checkpoint, {tuple(wanted)} in the model"
        for key, given, wanted in incompatible.incorrect_shapes
        if not has_other_classes(key, given, wanted)
    ]
    common_parts = {_part(key) for key in checkpoint_keys} & {_part(key) for key in model_keys}
    if not common_parts:
        problems.append(
            f"no part in common: the checkpoint has {sorted({_part(k) for k in checkpoint_keys})}, "
            f"the model {sorted({_part(k) for k in model_keys})}"
        )
    reported = {key for key, *_ in incompatible.incorrect_shapes} | left_out
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
            "heads, stem, tables), or other weights."
        )


def _part(key: str) -> str:
    return key.split(".")[0]


def _by_part(keys: Iterable[str]) -> dict[str, list[str]]:
    parts = defaultdict(list)
    for key in keys:
        parts[_part(key)].append(key)
    return parts
