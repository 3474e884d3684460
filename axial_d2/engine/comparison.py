"""Trainings that are compared with each other: set up, timed, kept and described."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from axial_d2.data.synthetic import SPLITS, SplitPaths
from axial_d2.engine.setup import setup
from axial_d2.engine.trainer import Trainer
from detectron2.config import CfgNode

Result = TypeVar("Result")


@dataclass(frozen=True)
class Study:
    """Where the results of a comparison are kept, one JSON file a kind.

    Args:
        output: folder; a kind's file is ``<output>/<kind>/comparison.json``.
        settings: what the comparison holds fixed, such as its iterations. Results of other
            settings do not count.
    """

    output: Path
    settings: dict[str, Any]

    def finished(self, kind: str, result_class: type[Result]) -> Result | None:
        """The result of a kind that was trained with these settings."""
        file = self._file(kind)
        if not file.is_file():
            return None
        record = json.loads(file.read_text(encoding="utf-8"))
        return result_class(**record) if record["settings"] == self.settings else None

    def ensure(
        self, kinds: Iterable[str], result_class: type[Result], train: Callable[[str], Result]
    ) -> Iterable[tuple[str, Result]]:
        """Each kind with its result, trained now unless it was before; kept as soon as it is there.

        Args:
            kinds: their names.
            result_class: dataclass of plain values, ``settings`` among them.
            train: from a kind's name to its result.
        """
        for kind in kinds:
            result = self.finished(kind, result_class)
            if result is None:
                print(f"{kind}: training …", flush=True)
                result = train(kind)
                document = json.dumps(asdict(result), indent=2) + "\n"  # type: ignore[call-overload]
                self._file(kind).write_text(document, encoding="utf-8")
            yield kind, result

    def _file(self, kind: str) -> Path:
        return self.output / kind / "comparison.json"


@dataclass(frozen=True)
class TimedTraining:
    """What a training led to.

    Attributes:
        results: of the evaluation that it ends with, by task and metric.
        seconds, cpu_seconds: wall-clock and of this process on processors, without evaluation.
        evaluation_seconds: wall-clock.
    """

    results: dict[str, dict[str, Any]]
    seconds: float
    cpu_seconds: float
    evaluation_seconds: float


def demo_dataset_options(root: Path, name: str = "axial_d2_demo") -> list[str]:
    """KEY VALUE pair that registers the splits of a demo data set.

    Args:
        root: its folder.
        name: of the data set; its splits are ``<name>_train`` and ``<name>_val``.
    """
    entries = [
        [f"{name}_{s.split}", *map(str, (s.images, s.panoptic, s.panoptic_json))]
        for s in (SplitPaths.of(root, split) for split in SPLITS)
    ]
    return ["DATASETS.PANOPTIC", repr(entries)]


def demo_config(config: Path, dataset: Path, output: Path, max_iter: int | None) -> CfgNode:
    """A config of the demo's data set, which is in the folder ``dataset``, frozen and set up.

    Args:
        max_iter: iterations; None for the config's.
    """
    opts = [*demo_dataset_options(dataset), "OUTPUT_DIR", str(output)]
    if max_iter is not None:
        opts += ["SOLVER.MAX_ITER", str(max_iter)]
    return setup(argparse.Namespace(config_file=str(config), opts=opts))


def train_and_time(cfg: CfgNode) -> TimedTraining:
    """Trains from the beginning; Detectron2's words go to ``OUTPUT_DIR/log.txt`` alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        start, cpu_start = time.perf_counter(), time.process_time()
        trainer.train()
        total, cpu_total = time.perf_counter() - start, time.process_time() - cpu_start
        start, cpu_start = time.perf_counter(), time.process_time()
        results = Trainer.test(cfg, trainer.tested_model)
        evaluation, cpu_evaluation = time.perf_counter() - start, time.process_time() - cpu_start
    # The training ends with an evaluation of its own.
    return TimedTraining(results, total - evaluation, cpu_total - cpu_evaluation, evaluation)


def seed_headers(seeds: Sequence[int]) -> list[str]:
    """Of the columns that :func:`seed_cells` fills."""
    return [*(f"seed {seed}" for seed in seeds), "mean", "spread"]


def seed_cells(scores: Mapping[int, float], seeds: Sequence[int]) -> list[str]:
    """The score of each seed, or a dash, their mean and their standard deviation.

    Args:
        scores: in percent, by seed; one or more.
        seeds: of the table's columns.
    """
    values = list(scores.values())
    spread = f"{np.std(values, ddof=1):.1f}" if len(values) > 1 else "–"
    cells = [f"{scores[seed]:.1f}" if seed in scores else "–" for seed in seeds]
    return [*cells, f"{np.mean(values):.1f}", spread]


def first_comment(config: Path) -> str:
    """What a config is, as the comment in its first line says."""
    return config.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").rstrip(".")
