#!/usr/bin/env python
"""Dual attention and attention to scale against their baselines, over several seeds.

tools/compare_attention.py [--output output/attention] [--seeds 1 2 3]     trains, then reports
tools/compare_attention.py --report docs                                   what there is so far

Three experiments: DANet's head with and without its attention layers; three scales merged by
attention, average or maximum, and a single scale; the same on scenes whose things differ a lot in
size. Every training is a config of configs/demo. What was trained already is not trained again,
so a call that was stopped goes on with the next one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from axial_d2.data import make_demo_dataset
from axial_d2.data.synthetic import SPLITS, SplitPaths
from axial_d2.engine import Trainer
from axial_d2.engine.setup import setup
from detectron2.config import CfgNode

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "demo"


@dataclass(frozen=True)
class Experiment:
    """Trainings that are compared with each other.

    Attributes:
        name: of the experiment, and of its folder.
        configs: folder of configs/demo.
        kinds: configs; the first is the one that the others are baselines of.
        varied_sizes: whether the things of the scenes differ a lot in size.
    """

    name: str
    configs: str
    kinds: tuple[str, ...]
    varied_sizes: bool = False

    @property
    def dataset(self) -> str:
        return "varied_sizes" if self.varied_sizes else "demo"


SCALE_KINDS = ("attention", "average", "maximum", "single_scale")
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("dual_attention", "dual_attention", ("dual_attention", "convolutions")),
        Experiment("scale_attention", "scale_attention", SCALE_KINDS),
        Experiment("scale_attention_sizes", "scale_attention", SCALE_KINDS, varied_sizes=True),
    )
}


@dataclass(frozen=True)
class Training:
    """One training and its evaluation.

    Attributes:
        experiment, kind, seed: which one.
        settings: what has to be the same for all: iterations, images.
        results: of the semantic evaluator on the validation images, in percent.
        threads: of PyTorch.
        seconds: wall-clock, of the training with its evaluation.
    """

    experiment: str
    kind: str
    seed: int
    settings: dict[str, int]
    results: dict[str, float]
    threads: int
    seconds: float


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "output" / "attention", help="working folder")
    add("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="NAME")
    add("--kinds", nargs="+", metavar="KIND", help="of these alone; default: all")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of trainings; default: 1 2 3")
    add("--max-iter", type=int, help="iterations of each training; default: the configs'")
    add("--num-train", type=int, default=800, help="images to train on; default: 800")
    add("--num-val", type=int, default=120, help="images to evaluate on; default: 120")
    add("--report", type=Path, metavar="FOLDER", help="only write the document and pictures there")
    return parser.parse_args(arguments)


def folder_of(experiment: Experiment, kind: str, seed: int, args: argparse.Namespace) -> Path:
    return args.output / experiment.name / f"{kind}_{seed}"


def config_of(experiment: Experiment, kind: str, seed: int, args: argparse.Namespace) -> CfgNode:
    """The config of a training, its data sets registered."""
    dataset = f"axial_d2_{experiment.dataset}"
    paths = [SplitPaths.of(args.output / experiment.dataset, split) for split in SPLITS]
    registered = [
        [f"{dataset}_{s.split}", *map(str, (s.images, s.panoptic, s.panoptic_json))] for s in paths
    ]
    opts = ["DATASETS.PANOPTIC", repr(registered), "SEED", str(seed)]
    opts += ["DATASETS.TRAIN", f"('{dataset}_train',)", "DATASETS.TEST", f"('{dataset}_val',)"]
    opts += ["OUTPUT_DIR", str(folder_of(experiment, kind, seed, args))]
    if args.max_iter is not None:
        opts += ["SOLVER.MAX_ITER", str(args.max_iter)]
    config = CONFIGS / experiment.configs / f"{kind}.yaml"
    return setup(argparse.Namespace(config_file=str(config), opts=opts))


def train(experiment: Experiment, kind: str, seed: int, args: argparse.Namespace) -> Training:
    with contextlib.redirect_stdout(io.StringIO()):  # Detectron2's log is in OUTPUT_DIR/log.txt
        cfg = config_of(experiment, kind, seed, args)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    return Training(
        experiment=experiment.name,
        kind=kind,
        seed=seed,
        settings=settings_of(args),
        # Of the evaluation that ends the training.
        results=dict(trainer._last_eval_results["sem_seg"]),
        threads=torch.get_num_threads(),
        seconds=seconds,
    )


def settings_of(args: argparse.Namespace) -> dict[str, int]:
    return {name: getattr(args, name) for name in ("max_iter", "num_train", "num_val")}


def finished(
    experiment: Experiment, kind: str, seed: int, args: argparse.Namespace
) -> Training | None:
    file = folder_of(experiment, kind, seed, args) / "training.json"
    if not file.is_file():
        return None
    training = Training(**json.loads(file.read_text(encoding="utf-8")))
    return training if training.settings == settings_of(args) else None


def wanted(args: argparse.Namespace) -> list[tuple[Experiment, str, int]]:
    """Every training, seed by seed, so that all experiments have the first seeds first."""
    return [
        (EXPERIMENTS[name], kind, seed)
        for seed in args.seeds
        for name in args.experiments
        for kind in EXPERIMENTS[name].kinds
        if args.kinds is None or kind in args.kinds
    ]


def train_all(args: argparse.Namespace) -> None:
    for varied_sizes in sorted({EXPERIMENTS[name].varied_sizes for name in args.experiments}):
        root = args.output / ("varied_sizes" if varied_sizes else "demo")
        make_demo_dataset(root, 0, args.num_train, args.num_val, varied_sizes=varied_sizes)
    for experiment, kind, seed in wanted(args):
        training = finished(experiment, kind, seed, args)
        if training is None:
            training = train(experiment, kind, seed, args)
            document = json.dumps(asdict(training), indent=2) + "\n"
            file = folder_of(experiment, kind, seed, args) / "training.json"
            file.write_text(document, encoding="utf-8")
        label = f"{experiment.name}, {kind}, seed {seed}"
        print(f"{label}: mIoU {training.results['mIoU']:.1f}, {training.seconds:.0f} s", flush=True)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    if args.report is None:
        train_all(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
