"""What has been evaluated, in a JSON file that grows from ratio to ratio and run to run."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Results = dict[str, dict[str, float | None]]


@dataclass
class Evaluation:
    """The results at one ratio, as Detectron2's evaluators name them (percent), and with what."""

    ratio: float
    results: Results
    seconds: float
    versions: dict[str, str]


@dataclass
class Run:
    """One checkpoint under one config.

    Args:
        label: in the figure and the table; unique in a record.
        config_file, weights: as given.
        weights_sha256: of the weights file.
        settings: the part of the config that predictions depend on.
    """

    label: str
    config_file: str
    weights: str
    weights_sha256: str
    settings: dict[str, Any]
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def ratios(self) -> set[float]:
        return {evaluation.ratio for evaluation in self.evaluations}

    def add(self, evaluation: Evaluation) -> None:
        """Enters an evaluation in place of an earlier one at its ratio."""
        others = [e for e in self.evaluations if e.ratio != evaluation.ratio]
        self.evaluations = sorted([*others, evaluation], key=lambda e: e.ratio)

    def differences(self, other: Run) -> list[str]:
        """What else than the label keeps two runs from being the same."""
        keys = [] if self.weights_sha256 == other.weights_sha256 else ["the weights"]
        mine, theirs = _flat(self.settings), _flat(other.settings)
        return keys + sorted(
            key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)
        )


@dataclass
class Record:
    """All runs on one data set (its name, num_images and sha256)."""

    dataset: dict[str, Any]
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def load(cls, file: Path) -> Record | None:
        """The record in a file, None where there is no file.

        Raises:
            ValueError: the file holds something else.
        """
        if not file.exists():
            return None
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            runs = [
                Run(**{**run, "evaluations": [Evaluation(**e) for e in run["evaluations"]]})
                for run in data["runs"]
            ]
            return cls(data["dataset"], runs)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file} is not what the scale stress test wrote ({type(error).__name__}: {error});"
                " remove it or give another --output."
            ) from error

    def save(self, file: Path) -> None:
        """Writes the record; an interruption leaves the file as it was."""
        text = json.dumps(_finite(asdict(self)), indent=2, allow_nan=False)
        unfinished = file.with_name(f"{file.name}.unfinished")
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, file)

    def enter(self, run: Run, *, rename: bool = False, replace: bool = False) -> Run:
        """The run that new results belong to: the same one of earlier, or this one, entered.

        Args:
            run: may lack evaluations.
            rename: gives an earlier run the label of ``run``.
            replace: lets ``run`` take the place of a different one with its label.

        Raises:
            ValueError: a different run has the label.
        """
        same = next((old for old in self.runs if not old.differences(run)), None)
        namesake = next((old for old in self.runs if old.label == run.label), None)
        if same is not None and (same is namesake or not rename):
            return same
        if namesake is not None and (same is not None or not replace):
            differences = namesake.differences(run)
            shown = ", ".join(differences[:4]) + (", …" if len(differences) > 4 else "")
            remedy = "" if same is not None else ", or --force to replace that run"
            raise ValueError(
                f"there are results labelled {run.label!r} already, for {namesake.weights} with "
                f"{namesake.config_file}; what differs: {shown}. Give another --label{remedy}."
            )
        if same is not None:
            same.label = run.label
            return same
        if namesake is not None:
            self.runs[self.runs.index(namesake)] = run
        else:
            self.runs.append(run)
        return run


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _finite(value: Any) -> Any:
    """JSON knows no NaN, which evaluators give to classes without ground truth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
