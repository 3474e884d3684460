#!/usr/bin/env python
"""Evaluates a checkpoint on inputs of many sizes and draws the curve, as Fig. 4 of the paper does.

tools/scale_stress.py --config-file configs/… --output FOLDER [--ratios 0.5 1 2] \\
    MODEL.WEIGHTS model_final.pth [KEY VALUE …]

The network's input is RATIO times as large as in plain evaluation; ground truth and outputs keep
their size. Writes scale_stress.json and scale_stress.png into FOLDER. A ratio that is there
already is not evaluated again; another config or checkpoint with the same --output joins the
figure.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from axial_d2.engine import run_under_torchrun, under_torchrun
from axial_d2.engine.scale_stress import (
    DEFAULT_RATIOS,
    METRICS,
    check_baseline,
    check_scale_stress,
    curves,
    draw_curves,
    evaluate_ratios,
    open_record,
    pick_metric,
    table,
)
from axial_d2.engine.setup import setup
from detectron2.engine import launch
from detectron2.utils import comm

DEFAULTS = [f"{ratio:g}" for ratio in DEFAULT_RATIOS]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="of the model")
    add("--output", required=True, type=Path, metavar="FOLDER", help="created where missing")
    add(
        "--ratios",
        nargs="+",
        default=DEFAULTS,
        metavar="RATIO",
        help=f"default: {' '.join(DEFAULTS)} (the paper's figure ends at 4)",
    )
    add("--label", help="of the curve; default: the config's name")
    add("--metric", choices=METRICS, help="to draw; default: the first that is measured")
    add("--baseline", metavar="LABEL", help="also draw the gain over this curve, in percent of it")
    add("--force", action="store_true", help="evaluate again; replace another run of this label")
    add("--num-gpus", type=int, default=1, help="of this machine; default: 1; or use torchrun")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options, last")
    args = parser.parse_args(arguments)
    args.ratios, keys_and_values = split_ratios(args.ratios)
    args.opts = keys_and_values + args.opts
    if not args.ratios:
        parser.error(f"--ratios is followed by {keys_and_values[0]!r}, which is no number")
    return args


def split_ratios(words: list[str]) -> tuple[list[float], list[str]]:
    """The numbers that come first, and the rest, which argparse takes for ratios as well."""
    ratios: list[float] = []
    for index, word in enumerate(words):
        try:
            ratios.append(float(word))
        except ValueError:
            return ratios, words[index:]
    return ratios, []


def stress(args: argparse.Namespace) -> None:
    """What each process does."""
    opts = [*args.opts, "OUTPUT_DIR", str(args.output)]
    cfg = setup(argparse.Namespace(config_file=args.config_file, opts=opts, eval_only=True))
    check_scale_stress(cfg, args.ratios)
    metric = pick_metric(cfg, args.metric)
    file = args.output / "scale_stress.json"
    record, run = open_record(
        cfg, file, config_file=args.config_file, label=args.label, force=args.force
    )
    check_baseline(record, args.baseline)
    evaluated = evaluate_ratios(cfg, record, run, args.ratios, file, force=args.force)
    if not comm.is_main_process():
        return
    picture = args.output / "scale_stress.png"
    dataset = record.dataset
    title = f"{dataset['name']}, {dataset['num_images']} images"
    draw_curves(curves(record, metric), picture, title, args.baseline)
    kept = sorted(set(args.ratios) - set(evaluated))
    if kept:
        print(f"\nNot evaluated again: {run.label} at {', '.join(f'{r:g}' for r in kept)}")
    print(f"\n{table(record, metric)}\n\nAll figures: {file}\nCurves: {picture}")


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        if under_torchrun():
            run_under_torchrun(stress, (args,))
        else:
            launch(stress, args.num_gpus, dist_url="auto", args=(args,))
    except (ValueError, OSError) as error:
        print(f"scale_stress: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
