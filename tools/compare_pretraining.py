#!/usr/bin/env python
"""Segmentation on the demo's data from scratch and from a pretrained backbone, over several seeds.

tools/compare_pretraining.py [--output output/pretraining] [--seeds 1 2 3]    trains, then reports
tools/compare_pretraining.py --report docs                                    what there is so far

For each seed a classifier is trained on pictures of one class each (configs/demo/classification),
and the segmentor with the same backbone (configs/demo/backbones) twice: from its initial values and
from the classifier's checkpoint, both with that seed. What was trained already is not trained
again, so a call that was stopped goes on with the next one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from axial_d2.data import make_demo_dataset, make_demo_image_folder
from axial_d2.data.synthetic import SPLITS
from axial_d2.engine import Trainer
from axial_d2.engine.comparison import Study, demo_dataset_options, seed_cells, seed_headers
from axial_d2.engine.setup import read_config, setup
from detectron2.config import CfgNode
from tabulate import tabulate

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "demo"
CLASSIFIER, SCRATCH, PRETRAINED = "classifier", "scratch", "pretrained"
STARTS = {SCRATCH: "initial values", PRETRAINED: "the classifier's backbone"}
# Name of a figure → the name that the trainer logs it under.
FIGURES = {"PQ": "panoptic_seg/PQ", "mIoU": "sem_seg/mIoU", "mask AP": "segm/AP"}
DOCUMENT = "pretraining.md"


@dataclass(frozen=True)
class Training:
    """One training with the evaluations in it.

    Attributes:
        kind: "classifier_1", "scratch_1" or "pretrained_1", with the seed.
        settings: what the comparison holds fixed.
        results: iteration → :data:`FIGURES` or "top-1" on the validation images, in percent.
        threads: of PyTorch.
        cpu_seconds: of this process, the evaluations included.
    """

    kind: str
    settings: dict[str, int | str]
    results: dict[str, dict[str, float]]
    threads: int
    cpu_seconds: float


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    kinds = sorted(f.stem for f in (CONFIGS / "backbones").glob("*.yaml"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "output" / "pretraining", help="working folder")
    add("--backbone", choices=kinds, default="axial", help="default: axial")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of trainings; default: 1 2 3")
    add("--max-iter", type=int, default=400, help="of segmentation; default: 400")
    add("--classifier-iter", type=int, default=600, help="of classifiers; default: 600")
    add("--num-train", type=int, default=800, help="scenes to train on; default: 800")
    add("--num-val", type=int, default=80, help="scenes to evaluate on; default: 80")
    add("--num-pictures", type=int, default=4000, help="for classifiers; default: 4000")
    add("--report", type=Path, metavar="FOLDER", help="only write the document there")
    args = parser.parse_args(arguments)
    if args.max_iter < 4:
        parser.error(f"--max-iter is {args.max_iter}; it must be 4 or more, for its quarter")
    return args


def settings_of(args: argparse.Namespace) -> dict[str, int | str]:
    names = ("backbone", "max_iter", "classifier_iter", "num_train", "num_val", "num_pictures")
    return {name: getattr(args, name) for name in names}


def config_of(start: str, seed: int, args: argparse.Namespace) -> CfgNode:
    opts = ["SEED", str(seed), "OUTPUT_DIR", str(args.output / f"{start}_{seed}")]
    if start == CLASSIFIER:
        folders = [[f"axial_d2_demo_images_{s}", str(args.output / "pictures" / s)] for s in SPLITS]
        opts += ["DATASETS.IMAGE_FOLDERS", repr(folders)]
        opts += ["SOLVER.MAX_ITER", str(args.classifier_iter)]
    else:
        opts += demo_dataset_options(args.output / "dataset")
        opts += ["SOLVER.MAX_ITER", str(args.max_iter)]
        opts += ["TEST.EVAL_PERIOD", str(args.max_iter // 4)]
    if start == PRETRAINED:
        opts += ["MODEL.WEIGHTS", str(args.output / f"{CLASSIFIER}_{seed}" / "model_final.pth")]
    folder = "classification" if start == CLASSIFIER else "backbones"
    config = str(CONFIGS / folder / f"{args.backbone}.yaml")
    return setup(argparse.Namespace(config_file=config, opts=opts))


def train(kind: str, args: argparse.Namespace) -> Training:
    start, _, seed = kind.rpartition("_")
    with contextlib.redirect_stdout(io.StringIO()):  # Detectron2's log is in OUTPUT_DIR/log.txt
        cfg = config_of(start, int(seed), args)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        cpu_start = time.process_time()
        trainer.train()
        cpu_seconds = time.process_time() - cpu_start
    return Training(
        kind=kind,
        settings=settings_of(args),
        results=evaluations_of(trainer, start),
        threads=torch.get_num_threads(),
        cpu_seconds=cpu_seconds,
    )


def evaluations_of(trainer: Trainer, start: str) -> dict[str, dict[str, float]]:
    """The results of all evaluations of a training, by the number of iterations done."""
    names = {"top-1": "classification/top1"} if start == CLASSIFIER else FIGURES
    results: dict[str, dict[str, float]] = {}
    for figure, name in names.items():
        history = trainer.storage.histories().get(name)
        for value, iteration in history.values() if history else ():
            done = min(int(iteration) + 1, trainer.max_iter)
            # Detectron2 gives no mask AP at all where nothing was detected.
            results.setdefault(str(done), dict.fromkeys(names, 0.0))[figure] = value
    return results


def wanted(args: argparse.Namespace) -> list[str]:
    """Every training, seed by seed, classifiers before what starts from them."""
    starts = (CLASSIFIER, SCRATCH, PRETRAINED)
    return [f"{start}_{seed}" for seed in args.seeds for start in starts]


def scores_of(
    trainings: dict[str, Training], start: str, iteration: int, figure: str
) -> dict[int, float]:
    """By seed."""
    return {
        int(kind.rpartition("_")[2]): training.results[str(iteration)][figure]
        for kind, training in trainings.items()
        if kind.startswith(f"{start}_")
    }


def table_of(trainings: dict[str, Training], args: argparse.Namespace) -> str:
    rows = []
    for iteration in (args.max_iter // 4, args.max_iter):
        for figure in FIGURES:
            for start, what in STARTS.items():
                scores = scores_of(trainings, start, iteration, figure)
                if scores:
                    label = f"{figure} after {iteration}"
                    rows.append([label, what, *seed_cells(scores, args.seeds)])
    headers = ["figure", "start", *seed_headers(args.seeds)]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def verdict(trainings: dict[str, Training], iteration: int, figure: str) -> str:
    """What the seeds that have both starts say."""
    scratch = scores_of(trainings, SCRATCH, iteration, figure)
    pretrained = scores_of(trainings, PRETRAINED, iteration, figure)
    differences = [pretrained[seed] - scratch[seed] for seed in scratch if seed in pretrained]
    if not differences:
        return f"- {figure} after {iteration} iterations: no seed has both trainings yet."
    wins, count = sum(d > 0 for d in differences), len(differences)
    spread = f" ± {np.std(differences, ddof=1):.1f}" if count > 1 else ""
    words = "better on every seed" if wins == count else f"better on {wins} of {count} seeds"
    if wins == 0:
        words = "better on no seed"
    return (
        f"- {figure} after {iteration} iterations: the pretrained start is **{words}**, by "
        f"{np.mean(differences):+.1f}{spread} on average."
    )


def write_report(trainings: dict[str, Training], args: argparse.Namespace, folder: Path) -> Path:
    segmentation = read_config(str(CONFIGS / "backbones" / f"{args.backbone}.yaml"))
    classification = read_config(str(CONFIGS / "classification" / f"{args.backbone}.yaml"))
    top1 = [t.results[str(args.classifier_iter)]["top-1"] for k, t in trainings.items()
            if k.startswith(CLASSIFIER)]  # fmt: skip
    minutes = {
        start: np.mean([t.cpu_seconds for k, t in trainings.items() if k.startswith(start)]) / 60
        for start in (CLASSIFIER, SCRATCH, PRETRAINED)
        if any(k.startswith(start) for k in trainings)
    }
    verdicts = "\n".join(
        verdict(trainings, iteration, figure)
        for iteration in (args.max_iter // 4, args.max_iter)
        for figure in FIGURES
    )
    threads = ", ".join(sorted({str(t.threads) for t in trainings.values()}))
    segmentor, classifier = (
        f"[demo/{folder}/{args.backbone}](../configs/demo/{folder}/{args.backbone}.yaml)"
        for folder in ("backbones", "classification")
    )
    protocol = f"""
        Written by `tools/compare_pretraining.py`. For each seed, the segmentor {segmentor} is
        trained twice, {args.max_iter} iterations of {segmentation.SOLVER.IMS_PER_BATCH} crops of
        {segmentation.INPUT.CROP.SIZE[0]} pixels from {args.num_train} scenes: from its initial
        values, and with its backbone from a classifier ({classifier}) that was trained with the
        same seed, {args.classifier_iter} iterations of {classification.SOLVER.IMS_PER_BATCH} out
        of {args.num_pictures} pictures of one class each. Nothing else differs; both have the
        demo's learning rate, which was chosen for training from scratch. The pictures show the
        shapes and textures of the scenes, drawn from other random numbers: it is an easy kind of
        pretraining, and says little about ImageNet. Pretraining costs iterations of its own, which
        the table does not count.
        """
    results = f"""
        The classifiers reached {min(top1, default=0):.1f} to {max(top1, default=0):.1f} % top-1.
        In percent, on {args.num_val} scenes that no training sees; the spread is the standard
        deviation over the seeds:
        """
    cost = f"""
        Differences within the spreads mean nothing with so few seeds. CPU minutes a training, its
        evaluations included: {", ".join(f"{s} {value:.1f}" for s, value in minutes.items())};
        PyTorch {torch.__version__} on {threads} thread(s) of {platform.machine()}.
        """
    parts = [
        "# Pretraining by classification, on the demo's data",
        _filled(protocol),
        _filled(results),
        table_of(trainings, args),
        verdicts,
        _filled(cost),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / DOCUMENT
    document.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return document


def _filled(paragraph: str) -> str:
    return textwrap.fill(
        " ".join(paragraph.split()), 100, break_long_words=False, break_on_hyphens=False
    )


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    study = Study(args.output, settings_of(args))
    if args.report is None:
        make_demo_dataset(args.output / "dataset", 0, args.num_train, args.num_val)
        make_demo_image_folder(
            args.output / "pictures", seed=0, num_train=args.num_pictures, num_val=500
        )
        for kind, done in study.ensure(wanted(args), Training, lambda kind: train(kind, args)):
            last = list(done.results.values())[-1]
            figures = ", ".join(f"{name} {value:.1f}" for name, value in last.items())
            print(f"{kind}: {figures}, {done.cpu_seconds:.0f} s of CPU time", flush=True)
    trainings = {k: t for k in wanted(args) if (t := study.finished(k, Training)) is not None}
    if not trainings:
        print(f"compare_pretraining: nothing trained in {args.output} yet", file=sys.stderr)
        return 1
    print(f"wrote {write_report(trainings, args, args.report or args.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
