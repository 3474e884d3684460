#!/usr/bin/env python
"""Draws the demo data set: COCO-panoptic files, instances and semantic ground truth.

With --image-folder, pictures of one class each in one folder a class, for classification.
"""

from __future__ import annotations

import argparse
import sys

from axial_d2.data.synthetic import (
    SPLITS,
    SplitPaths,
    make_demo_dataset,
    make_demo_image_folder,
)
from axial_d2.data.synthetic.image_folder import SUBJECTS

# Pictures in each split, unless given.
PANOPTIC_SIZE = {"train": 800, "val": 120}
IMAGE_FOLDER_SIZE = {"train": 4000, "val": 500}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--image-folder",
        nargs="?",
        choices=sorted(SUBJECTS),
        const="portraits",
        help="pictures of one class each, 48 pixels a side: portraits (where none is named) have "
        "the ten classes of the scenes, textures six that are easier",
    )
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another data set")
    for split in SPLITS:
        folder, panoptic = IMAGE_FOLDER_SIZE[split], PANOPTIC_SIZE[split]
        what = f"pictures in {split}; default: {panoptic}, of an image folder {folder}"
        parser.add_argument(f"--num-{split}", type=int, default=argparse.SUPPRESS, help=what)
    parser.add_argument(
        "--image-scale", type=float, default=1.0, help="1 gives pictures of 96 to 144 pixels"
    )
    parser.add_argument(
        "--varied-sizes", action="store_true", help="things differ in length by up to six times"
    )
    parser.add_argument("--force", action="store_true", help="replace what the folder holds")
    args = parser.parse_args(arguments)
    if args.image_folder and args.varied_sizes:
        parser.error("--varied-sizes is for scenes; an image folder has things of many sizes")
    for split, number in (IMAGE_FOLDER_SIZE if args.image_folder else PANOPTIC_SIZE).items():
        if not hasattr(args, f"num_{split}"):
            setattr(args, f"num_{split}", number)
    return args


def draw(args: argparse.Namespace) -> bool:
    common = {
        "seed": args.seed,
        "num_train": args.num_train,
        "num_val": args.num_val,
        "image_scale": args.image_scale,
        "force": args.force,
        "progress": True,
    }
    if args.image_folder:
        return make_demo_image_folder(args.output, subject=args.image_folder, **common)
    return make_demo_dataset(args.output, varied_sizes=args.varied_sizes, **common)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        drawn = draw(args)
    except (ValueError, OSError) as error:
        print(f"make_demo_dataset: {error}", file=sys.stderr)
        return 1
    print("Wrote the demo data set:" if drawn else "The demo data set is already there:")
    for split, count in (("train", args.num_train), ("val", args.num_val)):
        paths = SplitPaths.of(args.output, split)
        labels = "one folder a class" if args.image_folder else f"labels in {paths.panoptic_json}"
        print(f"  {split}: {count} images in {paths.images}, {labels}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
