#!/usr/bin/env python
"""Checks a COCO-panoptic data set or an image folder; lists what is wrong with which file.

Exit status: 0 when nothing is wrong, 1 when something is, 2 for a bad command line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict

from axial_d2.data import Problem, check_image_folder, check_panoptic_dataset

PANOPTIC = ("panoptic_json", "image_root", "panoptic_root")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--image-folder", help="holds one folder a class; none of the next three")
    parser.add_argument("--panoptic-json", help="COCO-panoptic JSON")
    parser.add_argument("--image-root", help="folder of the images")
    parser.add_argument("--panoptic-root", help="folder of the panoptic PNGs")
    parser.add_argument(
        "--label-divisor", type=int, default=1000, help="as the data set is registered with"
    )
    parser.add_argument("--json", metavar="FILE", help="also write all problems to this file")
    parser.add_argument("--examples", type=int, default=3, help="lines shown of each kind")
    args = parser.parse_args(arguments)
    given = [name for name in ("image_folder", *PANOPTIC) if getattr(args, name)]
    if given not in (["image_folder"], list(PANOPTIC)):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        parser.error(
            "give --image-folder alone, or --panoptic-json, --image-root and --panoptic-root; "
            f"given were {names or 'none'}"
        )
    if args.label_divisor < 2:
        parser.error(f"--label-divisor is {args.label_divisor}; it must be 2 or more")
    return args


def summarize(problems: list[Problem], examples: int) -> str:
    """One line a kind of problem with its count, and the first few examples beneath it."""
    by_kind: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_kind[problem.kind.value].append(problem)
    lines = []
    for kind, found in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        lines.append(f"{len(found):7d}  {kind}")
        lines += [f"           {p.file}: {p.message}" for p in found[:examples]]
        if len(found) > examples:
            lines.append(f"           … and {len(found) - examples} more")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    checked = args.image_folder or args.panoptic_json
    if args.image_folder:
        problems = check_image_folder(args.image_folder, progress=True)
    else:
        problems = check_panoptic_dataset(
            args.image_root,
            args.panoptic_root,
            args.panoptic_json,
            args.label_divisor,
            progress=True,
        )
    if args.json:
        entries = [{"kind": p.kind.value, "file": p.file, "message": p.message} for p in problems]
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(entries, file, indent=1, ensure_ascii=False)
        print(f"All problems are in {args.json}.")
    if not problems:
        print(f"{checked}: no problem found.")
        return 0
    print(f"{checked}: {len(problems)} problems.")
    print(summarize(problems, args.examples))
    return 1


if __name__ == "__main__":
    sys.exit(main())
