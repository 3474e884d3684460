#!/usr/bin/env python
"""Builds and counts every model of the papers' tables and every config, and writes the documents.

tools/fidelity_report.py [--output docs] [--only fidelity | model_zoo] [--check]

docs/fidelity.md has published costs beside ours, docs/model_zoo.md every config.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
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
from axial_d2.analysis.zoo import SECTIONS, write_zoo
from tqdm import tqdm

ROOT = Path(__file__).parents[1]


def fidelity(config_root: Path) -> str:
    tables = (*PUBLISHED, *ALTERNATIVES)
    measured = list(
        tqdm(measure_tables(tables, config_root), total=len(tables), unit="table", desc="fidelity")
    )
    slopes = []
    for count_border in COUNT_BORDER_CHOICES:
        rows = [
            measure(model, config_root, count_border=count_border)
            for model in axial_deeplab.SPAN_TABLE.models
        ]
        slopes.append((count_border, *slope(rows)))
    return write_document(measured[: len(PUBLISHED)], measured[len(PUBLISHED) :], slopes)


def model_zoo(config_root: Path) -> str:
    parts = tqdm(write_zoo(config_root), total=2 + len(SECTIONS), unit="section", desc="model zoo")
    return "\n".join(parts)


DOCUMENTS: dict[str, Callable[[Path], str]] = {"fidelity": fidelity, "model_zoo": model_zoo}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder; default: docs")
    parser.add_argument("--only", choices=DOCUMENTS, help="one document; default: all")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a file is out of date"
    )
    return parser.parse_args(arguments)


def is_current(file: Path, document: str) -> bool:
    current = file.is_file() and file.read_text(encoding="utf-8") == document
    if not current:
        print(f"{file} is out of date; run tools/fidelity_report.py", file=sys.stderr)
    return current


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    logging.getLogger("axial_d2").setLevel(logging.ERROR)  # no GPU is needed to count
    current = True
    for name in [args.only] if args.only else DOCUMENTS:
        document = DOCUMENTS[name](ROOT / "configs")
        file = args.output / f"{name}.md"
        if args.check:
            current &= is_current(file, document)
            continue
        args.output.mkdir(parents=True, exist_ok=True)
        file.write_text(document, encoding="utf-8")
        print(f"wrote {file}")
    return 0 if current else 1


if __name__ == "__main__":
    sys.exit(main())
