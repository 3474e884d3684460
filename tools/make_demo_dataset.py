#!/usr/bin/env python
"""Draws the demo data set: COCO-panoptic files, instances and semantic ground truth."""

from __future__ import annotations

import argparse
import sys

from axial_d2.data.synthetic import SplitPaths, make_demo_dataset


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another data set")
    parser.add_argument("--num-train", type=int, default=800, help="pictures for training")
    parser.add_argument("--num-val", type=int, default=80, help="pictures for validation")
    parser.add_argument(
        "--image-scale", type=float, default=1.0, help="1 gives pictures of 96 to 144 pixels"
    )
    parser.add_argument(
        "--varied-sizes", action="store_true", help="things differ in length by up to six times"
    )
    parser.add_argument("--force", action="store_true", help="replace what the folder holds")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        drawn = make_demo_dataset(
            args.output,
            args.seed,
            args.num_train,
            args.num_val,
            image_scale=args.image_scale,
            varied_sizes=args.varied_sizes,
            force=args.force,
            progress=True,
        )
    except (ValueError, OSError) as error:
        print(f"make_demo_dataset: {error}", file=sys.stderr)
        return 1
    print("Wrote the demo data set:" if drawn else "The demo data set is already there:")
    for split, count in (("train", args.num_train), ("val", args.num_val)):
        paths = SplitPaths.of(args.output, split)
        print(f"  {split}: {count} images in {paths.images}, labels in {paths.panoptic_json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
