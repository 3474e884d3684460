#!/usr/bin/env python
"""Exports a model, or its backbone alone, for other programs: ONNX or torch.export.

tools/export_model.py --config-file configs/… --input-size 513x1025 model.onnx MODEL.WEIGHTS …
tools/export_model.py --config-file configs/… --input-size 224x224 --part backbone backbone.pt2

The file takes images [B, 3, H, W] of that size, values 0 … 255 in INPUT.FORMAT order, and gives
what comes before post-processing: semantic_logits, center_heatmap and offsets at the heads' stride
(offsets in cells of it), or the backbone's feature maps. It is run once and compared with the
model. Attention is the reference implementation, whose memory grows with the square of its reach.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from axial_d2.engine.arguments import parse_input_size
from axial_d2.engine.checkpoint import StrictCheckpointer
from axial_d2.engine.export import (
    PARTS,
    TOLERANCE,
    Exportable,
    check_output,
    error_of_file,
    example,
    export_program,
    with_reference_attention,
    write,
)
from axial_d2.engine.setup import WITHOUT_FILES, load_config
from axial_d2.engine.skeleton import build_without_data


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="file to write, .onnx or .pt2")
    parser.add_argument("--config-file", required=True, help="of axial_d2 or of Detectron2")
    parser.add_argument(
        "--input-size", required=True, type=parse_input_size, metavar="HxW", help="in pixels"
    )
    parser.add_argument("--part", choices=PARTS, default=PARTS[0], help="default: network")
    parser.add_argument(
        "--dynamic-batch", action="store_true", help="any number of images; default: one"
    )
    parser.add_argument("opts", nargs="*", help="changes of the config, KEY VALUE …")
    return parser.parse_intermixed_args(arguments)


def exportable(args: argparse.Namespace) -> Exportable:
    # No data set has to be there.
    opts = [*args.opts, *WITHOUT_FILES, "MODEL.DEVICE", "cpu"]
    cfg = with_reference_attention(load_config(args.config_file, opts))
    model = build_without_data(cfg, device="cpu")
    if cfg.MODEL.WEIGHTS:
        StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    else:
        print("MODEL.WEIGHTS is empty: the exported weights are random.")
    return Exportable(model, args.part)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        check_output(args.output)
        module = exportable(args)
        program = export_program(module, args.input_size, args.dynamic_batch)
        write(program, module, args.output)
        images = example(module, args.input_size, 3 if args.dynamic_batch else 1)
        error = error_of_file(args.output, module, images)
    except (ValueError, OSError) as fault:
        print(f"export_model: {fault}", file=sys.stderr)
        return 1
    if not error <= TOLERANCE:
        print(
            f"export_model: {args.output} differs from the model by {error:.1e} of its largest "
            f"value; at most {TOLERANCE:.0e} is allowed. Do not use it.",
            file=sys.stderr,
        )
        return 1
    print(f"wrote {args.output}: {', '.join(module.names)}; error {error:.1e} beside the model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
