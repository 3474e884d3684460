#!/usr/bin/env python
"""Converts public weights for MODEL.WEIGHTS, or our own for the authors' code.

tools/convert_weights.py SOURCE OUTPUT [--config-file configs/…] [KEY VALUE …]
tools/convert_weights.py SOURCE OUTPUT --to authors [--image-size 224]

SOURCE is recognised by itself: the authors' PyTorch checkpoints, DeepLab2's TensorFlow checkpoints
(folder, prefix or index file), ResNets of torchvision and Detectron2, and our own. OUTPUT ends in
.pth or .safetensors. The config says which model to fill; without one it is the backbone that the
weights belong to. docs/weights.md has the steps for each source.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from axial_d2.engine.setup import read_config
from axial_d2.engine.skeleton import build_without_data
from axial_d2.weights.authors_export import export_to_authors
from axial_d2.weights.authors_shapes import IMAGE_SIZE
from axial_d2.weights.core import Report, Tensors
from axial_d2.weights.formats import convert, recognise
from axial_d2.weights.reading import read_tensors
from axial_d2.weights.writing import check_output, write_tensors
from detectron2.modeling import build_backbone
from torch import nn

# Target format → key that its files have the tensors under.
KEYS = {"axial_d2": "model", "authors": "state_dict"}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help="file or folder of weights")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="….pth or ….safetensors")
    parser.add_argument(
        "--config-file", help="of the model to fill; default: the backbone of the weights"
    )
    parser.add_argument(
        "--to", choices=KEYS, default="axial_d2", help="target format; default: axial_d2"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        default=IMAGE_SIZE,
        help="with --to authors: side of the images, which fixes the tables' lengths; default: "
        f"{IMAGE_SIZE}",
    )
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read arrays from a Detectron2 .pkl; give it for files of a source you trust",
    )
    parser.add_argument("opts", nargs="*", help="changes of the config, KEY VALUE …")
    args = parser.parse_intermixed_args(arguments)
    if args.to == "authors" and (args.config_file or args.opts):
        parser.error("--to authors takes neither --config-file nor KEY VALUE: SOURCE says it all")
    if args.image_size < 1:
        parser.error(f"--image-size is {args.image_size}; it must be at least 1")
    return args


def target_model(args: argparse.Namespace, source: Tensors) -> nn.Module:
    """The model to fill, on the meta device: only its names and shapes are needed.

    Raises:
        ValueError: no config is given and the weights do not say which backbone is theirs.
    """
    opts = [*args.opts, "MODEL.DEVICE", "cpu"]
    if args.config_file:
        return build_without_data(read_config(args.config_file, opts))
    known = recognise(source.keys())
    options = known.options(source)
    if not options:
        raise ValueError(f"weights of {known.name} need a --config-file, which says their model.")
    print("no --config-file; the backbone is", " ".join(map(str, options)))
    # Frozen norms would have no batch counters.
    cfg = read_config("", [*options, "MODEL.BACKBONE.FREEZE_AT", 0, *opts])
    with torch.device("meta"):
        return nn.ModuleDict({"backbone": build_backbone(cfg)})


def convert_source(args: argparse.Namespace) -> Report:
    source = read_tensors(args.source, allow_pickle=args.allow_pickle)
    if args.to == "authors":
        return export_to_authors(source, args.image_size)
    print(f"{args.source}: {recognise(source.keys()).name}")
    return convert(source, target_model(args, source))


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        check_output(args.output, args.force)
        report = convert_source(args)
        print(report.text())
        write_tensors(
            report.converted,
            args.output,
            key=KEYS[args.to],
            unfilled=report.unfilled,
            overwrite=args.force,
        )
    except (ValueError, OSError) as error:
        print(f"convert_weights: {error}", file=sys.stderr)
        return 1
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
