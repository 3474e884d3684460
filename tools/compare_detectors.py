#!/usr/bin/env python
"""Trains RetinaNets with and without attention on the boxes of the demo's data, and compares them.

tools/compare_detectors.py [--output output/detectors] [--kinds retinanet_conv …]
tools/compare_detectors.py --report docs     writes what has been trained so far

Each kind is a config in configs/demo/detection, which says for how many iterations. Kinds that were
trained already with the same iterations, images and seed are not trained again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from axial_d2.analysis import analyze
from axial_d2.data import make_demo_dataset
from axial_d2.engine.comparison import Study, demo_config, first_comment, train_and_time
from axial_d2.engine.setup import read_config
from tabulate import tabulate

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "demo" / "detection"
# The rows of SASA's table.
KINDS = (
    "retinanet_conv",
    "retinanet_local",
    "retinanet_full_local",
    "attention_retinanet_local",
    "attention_retinanet_full_local",
)
METRICS = ("AP", "AP50", "AP75")
DOCUMENT = "demo_detection.md"


@dataclass(frozen=True)
class Detector:
    """One detector, trained.

    Attributes:
        kind: name of its config.
        what: the comment at the top of the config.
        settings: iterations, images, seed of the data.
        threads: of PyTorch.
        results: box AP, AP50 and AP75 on the validation images, in percent.
        parameters, multiply_adds: of the whole model, for one image of the data set.
        training_seconds, training_cpu_seconds: wall-clock, and of the process on processors.
        evaluation_seconds: wall-clock.
    """

    kind: str
    what: str
    settings: dict[str, int]
    threads: int
    results: dict[str, float]
    parameters: int
    multiply_adds: int
    training_seconds: float
    training_cpu_seconds: float
    evaluation_seconds: float


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "output" / "detectors", help="working folder")
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help="default: all")
    add("--max-iter", type=int, help="iterations of each training; default: the configs'")
    add("--num-train", type=int, default=800, help="images to train on; default: 800")
    add("--num-val", type=int, default=120, help="images to evaluate on; default: 120")
    add("--seed", type=int, default=0, help="of the data set; default: 0")
    add("--threads", type=int, default=1, help="of PyTorch; default: 1")
    add("--report", type=Path, metavar="FOLDER", help="only write the table there")
    return parser.parse_args(arguments)


def train(kind: str, args: argparse.Namespace) -> Detector:
    config = CONFIGS / f"{kind}.yaml"
    with contextlib.redirect_stdout(io.StringIO()):  # Detectron2's log is in OUTPUT_DIR/log.txt
        cfg = demo_config(config, args.output / "dataset", args.output / kind, args.max_iter)
    training = train_and_time(cfg)
    side = json.loads(Path(cfg.DATASETS.PANOPTIC[1][3]).read_text(encoding="utf-8"))["images"][0]
    cost = analyze(cfg, (side["height"], side["width"]))
    return Detector(
        kind=kind,
        what=first_comment(config),
        settings=settings_of(kind, args),
        threads=torch.get_num_threads(),
        results={name: score(training.results, name) for name in METRICS},
        parameters=cost.parameters,
        multiply_adds=cost.multiply_adds,
        training_seconds=training.seconds,
        training_cpu_seconds=training.cpu_seconds,
        evaluation_seconds=training.evaluation_seconds,
    )


def score(results: dict, metric: str) -> float:
    """In percent; 0 where nothing was detected, for which Detectron2 has no number."""
    value = results.get("bbox", {}).get(metric, 0.0)
    return 0.0 if math.isnan(value) else value


def settings_of(kind: str, args: argparse.Namespace) -> dict[str, int]:
    solver = read_config(str(CONFIGS / f"{kind}.yaml")).SOLVER
    return {
        "max_iter": args.max_iter or solver.MAX_ITER,
        "batch": solver.IMS_PER_BATCH,
        "num_train": args.num_train,
        "num_val": args.num_val,
        "seed": args.seed,
    }


def study_of(kind: str, args: argparse.Namespace) -> Study:
    return Study(args.output, settings_of(kind, args))


def write_report(detectors: list[Detector], folder: Path) -> Path:
    rows = [
        [
            f"[{d.kind}](../configs/demo/detection/{d.kind}.yaml)",
            d.what,
            *(f"{d.results[name]:.1f}" for name in METRICS),
            f"{d.parameters / 1e6:.2f}M",
            f"{d.multiply_adds / 1e9:.3f}B",
            str(d.settings["max_iter"]),
            f"{d.training_cpu_seconds / 60:.1f} min",
            f"{d.training_seconds / 60:.1f} min",
        ]
        for d in detectors
    ]
    headers = [
        "detector", "what it is", *METRICS, "parameters", "multiply-adds", "iterations",
        "processor time", "wall-clock",
    ]  # fmt: skip
    table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    threads = ", ".join(sorted({str(d.threads) for d in detectors}))
    missing = [kind for kind in KINDS if kind not in {d.kind for d in detectors}]
    rest = f"\nNot trained: {', '.join(missing)}.\n" if missing else ""
    images = detectors[0].settings
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / DOCUMENT
    file.write_text(
        f"""# Boxes of the demo's things, with and without attention

The rows of SASA's detection table in small. Written by `tools/compare_detectors.py`, which trains
every row from scratch on {images["num_train"]} images of the demo's data set and measures box AP by
Detectron2's `COCOEvaluator` on {images["num_val"]} images that training never sees (5 classes of
things of 12 to 70 pixels, which cover each other). Optimizer, learning rate, batches of
{images["batch"]} crops and anchors are the same in every row, and each takes at most ten minutes of
one processor. One training each, so small differences mean little.
Multiply-adds are for one image. Times are of training without evaluation on PyTorch
{torch.__version__} with {threads} thread(s) of {platform.machine()}; processor time is the
process's own, wall-clock was beside other work on the machine.

{table}
{rest}""",
        encoding="utf-8",
    )
    return file


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    if args.report is None:
        make_demo_dataset(args.output / "dataset", args.seed, args.num_train, args.num_val)
        for kind in args.kinds:
            trained = study_of(kind, args).ensure([kind], Detector, lambda kind: train(kind, args))
            for _, detector in trained:
                minutes = detector.training_cpu_seconds / 60
                print(f"{kind}: AP50 {detector.results['AP50']:.1f}, {minutes:.1f} min", flush=True)
    each = (study_of(kind, args).finished(kind, Detector) for kind in args.kinds)
    done = [detector for detector in each if detector is not None]
    if not done:
        print(f"compare_detectors: nothing trained in {args.output} yet", file=sys.stderr)
        return 1
    print(f"wrote {write_report(done, args.report or args.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
