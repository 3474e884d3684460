#!/usr/bin/env python
"""Counts parameters, multiply-adds and activations of the model of any config.

tools/analyze_model.py --config-file configs/… --input-size 1025x2049 [--by-module] [KEY VALUE …]

Nothing is computed and neither weights nor data sets are needed, so any size takes seconds.
Multiply-adds are those of convolutions, matrix products and attention, and activations what
these produce; see axial_d2/analysis/products.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import axial_d2
import detectron2
import torch
from axial_d2.analysis import COUNT_BORDER_CHOICES, ModelCost, analyze, cost_table
from axial_d2.engine.arguments import parse_input_size
from axial_d2.engine.setup import WITHOUT_FILES, load_config


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of axial_d2 or of Detectron2")
    parser.add_argument(
        "--input-size", required=True, type=parse_input_size, metavar="HxW", help="in pixels"
    )
    parser.add_argument("--by-module", action="store_true", help="also print a table of modules")
    parser.add_argument("--depth", type=int, default=3, help="of that table (default: 3)")
    parser.add_argument("--json", metavar="FILE", help="also write everything to this file")
    parser.add_argument(
        "--count-border",
        choices=COUNT_BORDER_CHOICES,
        default="full",
        help="what attention windows count at the border: all of their span (default; fits the "
        "published tables), or what lies inside",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="changes of the config, KEY VALUE …")
    args = parser.parse_args(arguments)
    if args.json and not Path(args.json).absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {Path(args.json).parent}")
    return args


def summary(cost: ModelCost) -> str:
    """The totals, the products by kind, and what is doubtful about them."""
    height, width = cost.input_shape[-2:]
    lines = [
        f"input          {height} x {width}",
        f"parameters     {cost.parameters / 1e6:.2f} M",
        f"multiply-adds  {cost.multiply_adds / 1e9:.2f} B",
        *(f"  {name:26s} {count / 1e9:.2f} B" for name, count in cost.by_operator.items()),
        f"activations    {cost.activations / 1e6:.1f} M elements, "
        f"{cost.activation_mebibytes:.0f} MiB in float32",
    ]
    if cost.depends_on_data:
        lines.append(
            "Note: a second stage computes on the boxes that a first one finds; these counts are "
            "for an image of noise and untrained weights."
        )
    for name, count in cost.unsupported_operators.items():
        lines.append(f"Warning: {name}, met {count} times, may hold products that are not counted.")
    if cost.uncalled_modules:
        lines.append(f"Warning: never reached: {', '.join(cost.uncalled_modules)}.")
    return "\n".join(lines)


def record(args: argparse.Namespace, cost: ModelCost) -> dict:
    """What goes into the JSON file."""
    return {
        "config_file": args.config_file,
        "options": args.opts,
        "input_size": list(args.input_size),
        "versions": {
            "axial_d2": axial_d2.__version__,
            "detectron2": detectron2.__version__,
            "fvcore": version("fvcore"),
            "torch": torch.__version__,
        },
        **cost.as_dict(),
    }


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        # No data set has to be there.
        opts = [*args.opts, *WITHOUT_FILES, "MODEL.DEVICE", "cpu"]
        cost = analyze(
            load_config(args.config_file, opts), args.input_size, count_border=args.count_border
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"analyze_model: {error}", file=sys.stderr)
        return 1
    if args.by_module:
        print(cost_table(cost, args.depth), end="\n\n")
    print(summary(cost))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(record(args, cost), file, indent=1)
        print(f"Everything is in {args.json}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
