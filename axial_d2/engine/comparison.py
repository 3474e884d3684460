"""Trainings on the demo's data set that are compared with each other: set up, timed, described."""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axial_d2.data.synthetic import SPLITS, SplitPaths
from axial_d2.engine.setup import setup
from axial_d2.engine.trainer import Trainer
from detectron2.config import CfgNode


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


def demo_config(config: Path, dataset: Path, output: Path, max_iter: int | None) -> CfgNode:
    """A config of the demo's data set, which is in the folder ``dataset``, frozen and set up.

    Args:
        max_iter: iterations; None for the config's.
    """
    registered = [
        [f"axial_d2_demo_{s.split}", *map(str, (s.images, s.panoptic, s.panoptic_json))]
        for s in (SplitPaths.of(dataset, split) for split in SPLITS)
    ]
    opts = ["DATASETS.PANOPTIC", repr(registered), "OUTPUT_DIR", str(output)]
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
        results = Trainer.test(cfg, trainer.model)
        evaluation, cpu_evaluation = time.perf_counter() - start, time.process_time() - cpu_start
    # The training ends with an evaluation of its own.
    return TimedTraining(results, total - evaluation, cpu_total - cpu_evaluation, evaluation)


def first_comment(config: Path) -> str:
    """What the first line of a config says it is."""
    return config.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").rstrip(".")
