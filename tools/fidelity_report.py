#!/usr/bin/env python
"""Builds every model of the papers' tables, counts it, and writes docs/fidelity.md.

tools/fidelity_report.py [--output docs/fidelity.md] [--check]
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from axial_d2.analysis.fidelity import (
    ALTERNATIVES,
    PUBLISHED,
    axial_deeplab,
    measure,
    measure_tables,
    slope,
    write_document,
)
from axial_d2.analysis.products import COUNT_BORDER_CHOICES
from tqdm import tqdm

ROOT = Path(__file__).parents[1]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "fidelity.md")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where the file is out of date"
    )
    return parser.parse_args(arguments)


def build_document(config_root: Path) -> str:
    tables = [*PUBLISHED, *ALTERNATIVES]
    progress = tqdm(measure_tables(tuple(tables), config_root), total=len(tables), unit="table")
    measured = list(progress)
    slopes = []
    for count_border in COUNT_BORDER_CHOICES:
        rows = [
            measure(model, config_root, count_border=count_border)
            for model in axial_deeplab.SPAN_TABLE.models
        ]
        slopes.append((count_border, *slope(rows)))
    return write_document(measured[: len(PUBLISHED)], measured[len(PUBLISHED) :], slopes)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    logging.getLogger("axial_d2").setLevel(logging.ERROR)  # no GPU is needed to count
    document = build_document(ROOT / "configs")
    if not args.check:
        args.output.write_text(document, encoding="utf-8")
        print(f"wrote {args.output}")
        return 0
    if not args.output.is_file() or args.output.read_text(encoding="utf-8") != document:
        print(f"{args.output} is out of date; run tools/fidelity_report.py", file=sys.stderr)
        return 1
    print(f"{args.output} is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
