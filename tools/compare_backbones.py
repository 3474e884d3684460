#!/usr/bin/env python
"""Trains every kind of backbone on the demo's data, all with the same budget, and compares them.

tools/compare_backbones.py [--output output/comparison] [--max-iter 700] [--kinds axial conv …]
tools/compare_backbones.py --report docs     writes what has been trained so far

Each kind is a config in configs/demo/backbones. Kinds that were trained already with the same
iterations, images and seed are not trained again, so several calls can share the work.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from axial_d2.analysis import analyze
from axial_d2.data import make_demo_dataset
from axial_d2.engine.comparison import Study, demo_config, first_comment, train_and_time
from tabulate import tabulate

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "demo" / "backbones"
KINDS = tuple(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
DOCUMENT, FIGURE = "demo_comparison.md", "demo_comparison.png"


@dataclass(frozen=True)
class Comparison:
    """One kind of backbone, trained.

    Attributes:
        kind: name of its config.
        what: the comment at the top of the config.
        settings: what the comparison holds fixed: iterations, images, seed of the data.
        threads: of PyTorch.
        results: PQ, SQ, RQ, mIoU and mask AP on the validation images, in percent.
        parameters, multiply_adds: of the whole model, for one image of the data set.
        training_seconds, evaluation_seconds: wall-clock; evaluation as a whole.
    """

    kind: str
    what: str
    settings: dict[str, int]
    threads: int
    results: dict[str, float]
    parameters: int
    multiply_adds: int
    training_seconds: float
    evaluation_seconds: float


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "output" / "comparison", help="working folder")
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help="default: all")
    add("--max-iter", type=int, default=700, help="iterations of each training; default: 700")
    add("--num-train", type=int, default=800, help="images to train on; default: 800")
    add("--num-val", type=int, default=120, help="images to evaluate on; default: 120")
    add("--seed", type=int, default=0, help="of the data set; default: 0")
    add("--report", type=Path, metavar="FOLDER", help="only write the table and figure there")
    return parser.parse_args(arguments)


def compare(kind: str, args: argparse.Namespace) -> Comparison:
    config = CONFIGS / f"{kind}.yaml"
    with contextlib.redirect_stdout(io.StringIO()):  # Detectron2's log is in OUTPUT_DIR/log.txt
        cfg = demo_config(config, args.output / "dataset", args.output / kind, args.max_iter)
    training = train_and_time(cfg)
    side = json.loads(Path(cfg.DATASETS.PANOPTIC[1][3]).read_text(encoding="utf-8"))["images"][0]
    cost = analyze(cfg, (side["height"], side["width"]))
    panoptic = training.results["panoptic_seg"]
    return Comparison(
        kind=kind,
        what=first_comment(config),
        settings=settings_of(args),
        threads=torch.get_num_threads(),
        results={
            **{key: panoptic[key] for key in ("PQ", "SQ", "RQ")},
            "mIoU": training.results["sem_seg"]["mIoU"],
            # Detectron2 gives no result at all where nothing was detected.
            "mask AP": training.results["segm"]["AP"] if "segm" in training.results else 0.0,
        },
        parameters=cost.parameters,
        multiply_adds=cost.multiply_adds,
        training_seconds=training.seconds,
        evaluation_seconds=training.evaluation_seconds,
    )


def settings_of(args: argparse.Namespace) -> dict[str, int]:
    return {name: getattr(args, name) for name in ("max_iter", "num_train", "num_val", "seed")}


def write_report(comparisons: list[Comparison], folder: Path) -> None:
    comparisons = sorted(comparisons, key=lambda c: -c.results["PQ"])
    names = list(comparisons[0].results)
    rows = [
        [
            f"[{c.kind}](../configs/demo/backbones/{c.kind}.yaml)",
            c.what,
            *(f"{c.results[name]:.1f}" for name in names),
            f"{c.parameters / 1e6:.2f}M",
            f"{c.multiply_adds / 1e9:.3f}B",
            f"{c.training_seconds / 60:.1f} min",
            f"{c.evaluation_seconds:.0f} s",
        ]
        for c in comparisons
    ]
    headers = [
        "backbone", "what it is", *names, "parameters", "multiply-adds", "training", "evaluation",
    ]  # fmt: skip
    table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    budget = f"{comparisons[0].settings['max_iter']} iterations of 8 crops"
    threads = ", ".join(sorted({str(c.threads) for c in comparisons}))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DOCUMENT).write_text(
        f"""# Every backbone on the demo's data set

Trained from scratch by `tools/compare_backbones.py`, all with one budget ({budget}), one optimizer
and one seed, and evaluated on images that training never sees. Widths are those of the demo, with
the same depth (26) and output channels everywhere; nothing else was tuned for any of them, and the
learning rate is the one found for `axial`. One training each, so small differences mean little.
Multiply-adds are for one image of the data set. Times are wall-clock on PyTorch
{torch.__version__} and {threads} thread(s) of {platform.machine()}, beside other work on the
machine: read them as orders of magnitude.

{table}

![PQ against multiply-adds]({FIGURE})
""",
        encoding="utf-8",
    )
    draw_figure(comparisons, folder / FIGURE)


def draw_figure(comparisons: list[Comparison], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for c in comparisons:
        size = 80 * c.parameters / 1e6
        axes.scatter(c.multiply_adds / 1e9, c.results["PQ"], s=size, alpha=0.6, label=c.kind)
    # Names beside the points would cover each other: many are as good at the same cost.
    legend = figure.legend(loc="outside right upper", title="best first")
    for handle in legend.legend_handles:
        handle.set_sizes([60])
    axes.set_xlabel("multiply-adds of one image (billions)")
    axes.set_ylabel("PQ on unseen images")
    axes.set_title(
        f"The demo's data set, {comparisons[0].settings['max_iter']} iterations; area: parameters"
    )
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    study = Study(args.output, settings_of(args))
    if args.report is None:
        make_demo_dataset(args.output / "dataset", args.seed, args.num_train, args.num_val)
        trained = study.ensure(args.kinds, Comparison, lambda kind: compare(kind, args))
        for kind, comparison in trained:
            print(f"{kind}: PQ {comparison.results['PQ']:.1f}", flush=True)
    done = [c for kind in args.kinds if (c := study.finished(kind, Comparison)) is not None]
    if not done:
        print(f"compare_backbones: nothing trained in {args.output} yet", file=sys.stderr)
        return 1
    folder = args.report or args.output
    write_report(done, folder)
    print(f"wrote {folder / DOCUMENT} and {folder / FIGURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
