#!/usr/bin/env python
"""Checks a Mapillary Vistas release and writes what training and evaluation need beside it.

Semantic and instance ground truth always; panoptic files where the release has instances alone;
with --max-side and --output, a smaller copy of the whole. A stopped run goes on when it is started
again. Exit status: 0 when all is well, 1 when not, 2 for a bad command line.
"""

from __future__ import annotations

import argparse
import sys
from typing import TextIO

from axial_d2.data import check_mapillary_split, prepare_mapillary_split
from axial_d2.data.mapillary_layout import OFFICIAL_SIZES, RELEASES, SPLITS, MapillarySplit
from axial_d2.data.mapillary_prepare import IncompleteReleaseError
from axial_d2.data.problems import Problem

SHOWN = 10


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", required=True, help="folder with config_*.json, training and validation"
    )
    parser.add_argument("--version", choices=RELEASES, default="v1.2", help="default: v1.2")
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="default: both"
    )
    parser.add_argument("--check", action="store_true", help="only look for missing files")
    parser.add_argument(
        "--max-side", type=int, metavar="PIXELS", help="scale longer sides down; the paper: 2177"
    )
    parser.add_argument("--output", help="folder of the scaled copy, such as …/mapillary_vistas")
    parser.add_argument("--workers", type=int, help="processes; default: one a processor")
    args = parser.parse_args(arguments)
    if (args.max_side is None) != (args.output is None):
        parser.error("--max-side and --output belong together: give both or neither")
    for option in ("max_side", "workers"):
        value = getattr(args, option)
        if value is not None and value < 1:
            parser.error(f"--{option.replace('_', '-')} is {value}; it must be at least 1")
    return args


def report(problems: list[Problem], file: TextIO) -> None:
    for problem in problems[:SHOWN]:
        print(f"  {problem.kind.value}: {problem.file}: {problem.message}", file=file)
    if len(problems) > SHOWN:
        print(f"  … and {len(problems) - SHOWN} more", file=file)


def check(args: argparse.Namespace) -> int:
    found = 0
    for split in args.splits:
        problems = check_mapillary_split(MapillarySplit.of(args.root, args.version, split))
        print(f"{split}: {len(problems)} problems" if problems else f"{split}: complete")
        report(problems, sys.stdout)
        found += len(problems)
    return 1 if found else 0


def prepare(args: argparse.Namespace, split: str) -> None:
    made = prepare_mapillary_split(
        args.root,
        args.version,
        split,
        output=args.output,
        max_side=args.max_side,
        workers=args.workers,
        progress=True,
    )
    print(f"{split}: {made.pictures} images in {made.paths.images}, prepared in ", end="")
    print(made.paths.prepared.path)
    if made.resumed:
        print(f"  {made.resumed} of them by an earlier run")
    if made.vanished:
        print(f"  {made.vanished} segments had no pixel left at this size and are not listed")
    if made.pictures != OFFICIAL_SIZES[split]:
        print(f"  note: the official release has {OFFICIAL_SIZES[split]} images in this split")


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    if args.check:
        return check(args)
    try:
        for split in args.splits:
            prepare(args, split)
    except IncompleteReleaseError as error:
        print(f"prepare_mapillary: {args.root} is incomplete:", file=sys.stderr)
        report(error.problems, sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"prepare_mapillary: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
