#!/usr/bin/env python
"""Measures our speed and memory beside our peers'; `make bench` and `make bench-gpu` run this.

Every case is checked first, then timed in turns with its peers; figures go to the console, to a
JSON file and, after a complete run, to benchmarks/README.md with its plots.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

# As a script it finds its own folder there instead.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.environment import environment, keep_freed_memory
from benchmarks.measure import CheckFailed, measure_case, measure_sweep
from benchmarks.plots import PLOTS, draw_sweep
from benchmarks.registry import DEVICES, Entry, Registry, Setting, Unavailable, load
from benchmarks.report import README, case_lines, environment_text, update_readme

FORMAT = 1
# Of Detectron2's code, and of what torch.compile leaves to Python.
KNOWN_WARNINGS = ("torch.meshgrid", "Dynamo does not know how to trace")
ROOT = Path(__file__).resolve().parents[1]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--device", choices=DEVICES, default="cpu", help="default: cpu")
    add("--only", action="append", default=[], metavar="NAME", help="a case or a file; repeatable")
    add("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    add("--json", type=Path, metavar="FILE", help="default: output/benchmarks/DEVICE.json")
    add("--no-memory", action="store_true", help="no peak memory, which takes processes of its own")
    add("--list", action="store_true", help="names, and nothing else")
    return parser.parse_args(arguments)


def json_path(args: argparse.Namespace) -> Path:
    """Where the report goes; an incomplete run does not replace a complete one."""
    if args.json is not None:
        return args.json
    part = "-quick" if args.quick else "-part" if is_partial(args) else ""
    return ROOT / "output" / "benchmarks" / f"{args.device}{part}.json"


def is_partial(args: argparse.Namespace) -> bool:
    return bool(args.quick or args.only or args.no_memory)


def measured(
    measure: Callable[[Entry, Setting, bool], dict], entry: Entry, args: argparse.Namespace
) -> dict:
    """The figures of one case or sweep, or why there are none."""
    start = time.monotonic()
    try:
        result = measure(entry, Setting(args.device, args.quick), not args.no_memory)
    except (CheckFailed, Unavailable) as fault:
        status = "wrong result" if isinstance(fault, CheckFailed) else "unavailable"
        header = {"name": entry.name, "title": entry.title, "topic": entry.topic}
        result = {**header, "status": status, "reason": str(fault), "goals": []}
    result["took_s"] = time.monotonic() - start
    print("\n".join(case_lines(result)) + f"\n  took {result['took_s']:.0f} s\n", flush=True)
    return result


def run(registry: Registry, args: argparse.Namespace) -> dict:
    """Measures everything in the registry; returns the report."""
    report = {
        "format": FORMAT,
        "device": args.device,
        "quick": args.quick,
        "date": datetime.date.today().isoformat(),
        **environment(args.device),
    }
    print(f"{environment_text(report)}\n", flush=True)
    # Sweeps first: their largest tensors would not fit into what the cases leave of the memory.
    sweeps = [measured(measure_sweep, entry, args) for entry in registry.sweeps.values()]
    cases = [measured(measure_case, entry, args) for entry in registry.cases.values()]
    return {**report, "results": [*cases, *sweeps]}


def write(report: dict, registry: Registry, args: argparse.Namespace) -> None:
    path = json_path(args)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"All figures: {path}")
    if not is_partial(args):
        for result in report["results"]:
            if "points" in result:
                draw_sweep(result, PLOTS, args.device)
        update_readme(registry, report)
        print(f"Page: {README}")


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    everything = load()
    try:
        registry = everything.select(args.device, args.only)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    if args.list:
        for entry in registry.entries():
            print(f"{entry.name:24} {entry.title}")
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks: PyTorch finds no CUDA device; use --device cpu.", file=sys.stderr)
        return 1
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
    keep_freed_memory()
    start = time.monotonic()
    report = run(registry, args)
    write(report, everything, args)
    wrong = [each["name"] for each in report["results"] if each["status"] == "wrong result"]
    print(f"Took {(time.monotonic() - start) / 60:.1f} minutes.")
    if wrong:
        print(f"benchmarks: wrong results: {', '.join(wrong)}.", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
