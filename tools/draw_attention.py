#!/usr/bin/env python
"""Draws what a trained DANet attends to, or how much each scale counts in attention to scale.

    tools/draw_attention.py --config-file configs/… --input IMAGE … --output FOLDER \\
        [--points ROW,COLUMN …] [--channels N …] --opts MODEL.WEIGHTS model_final.pth
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from axial_d2.data import DatasetError, read_image
from axial_d2.engine import StrictCheckpointer
from axial_d2.engine.attention_pictures import AttentionPainter
from axial_d2.engine.setup import load_config
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image


def point(text: str) -> tuple[int, int]:
    row, _, column = text.partition(",")
    try:
        return int(row), int(column)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no point; give ROW,COLUMN in pixels, such as 40,65"
        ) from None


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="of the model")
    add("--input", nargs="+", required=True, type=Path, metavar="IMAGE", help="image files")
    add("--output", required=True, type=Path, help="folder, created where missing")
    add("--points", nargs="+", type=point, default=[], metavar="ROW,COLUMN", help="of DANet's maps")
    add("--channels", nargs="+", type=int, default=[], metavar="N", help="of DANet's maps")
    add("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="options, last")
    return parser.parse_args(arguments)


def build_painter(config_file: str, opts: list[str]) -> AttentionPainter:
    cfg = load_config(config_file, opts)
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "MODEL.WEIGHTS is empty, and an untrained model attends to noise; append "
            "--opts MODEL.WEIGHTS path/to/model_final.pth"
        )
    model = build_model(cfg)
    painter = AttentionPainter(
        model, MetadataCatalog.get((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)[0]), cfg.INPUT.FORMAT
    )
    StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return painter


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        painter = build_painter(args.config_file, args.opts)
        args.output.mkdir(parents=True, exist_ok=True)
        for file in args.input:
            picture = painter.draw(read_image(str(file), "RGB"), args.points, args.channels)
            drawn = args.output / f"{file.stem}.png"
            Image.fromarray(picture).save(drawn)
            print(drawn)
    except (ValueError, OSError, DatasetError) as error:
        print(f"draw_attention: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
