"""Our weights in the format of the authors' PyTorch code, for use there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from axial_d2.weights import authors_layouts as layouts
from axial_d2.weights.authors import AXES, STEM, TABLES, block_pairs
from axial_d2.weights.authors_shapes import IMAGE_SIZE, BlockSize, authors_shapes, table_length
from axial_d2.weights.core import Report, Rule, Tensors, WeightsError, apply_rules, backbone_prefix
from axial_d2.weights.name_tables import (
    Block,
    Pair,
    classifier_pairs,
    our_blocks,
    without_lonely_counters,
)
from torch import Tensor


def export_to_authors(source: Tensors, image_size: int = IMAGE_SIZE) -> Report:
    """Converts the backbone in our own weights to the authors' names and layouts.

    Args:
        source: our names, as :func:`.read_tensors` returns them, of a whole model or a backbone.
        image_size: side of the images that the authors' model is made for, default 224. Their
            tables are as long as an axis; ours are cut or continued to that, which the report
            notes.

    Raises:
        WeightsError: the backbone is none that the authors' code can build.
    """
    prefix = backbone_prefix(source)
    beside = {name: source[name] for name in ("linear.weight", "linear.bias") if name in source}
    backbone = beside | {
        name.removeprefix(prefix): tensor
        for name, tensor in source.items()
        if name.startswith(prefix)
    }
    sizes = _sizes(backbone)
    num_heads = backbone["res2.0.height_axis.logit_norm.weight"].shape[0] // 3
    num_classes = backbone["linear.weight"].shape[0] if "linear.weight" in backbone else 0
    shapes = authors_shapes(
        backbone["stem.conv1.weight"].shape[0], sizes, num_heads, num_classes, image_size
    )
    rules = _rules(sizes, num_heads, image_size) + _plain(classifier_pairs(backbone, ""))
    counted = without_lonely_counters(rules, backbone, shapes)
    report = apply_rules(list(counted), backbone, shapes)
    report.ignored |= {
        name: "not part of the backbone"
        for name in source
        if not name.startswith(prefix) and name not in beside
    }
    report.notes += _table_notes(backbone, sizes, image_size)
    return report


def _sizes(backbone: Mapping[str, Tensor]) -> list[BlockSize]:
    sizes = []
    for block in our_blocks(backbone):
        down, up = (backbone.get(f"{block.ours}{conv}.weight") for conv in ("conv1", "conv3"))
        if down is None or up is None or f"{block.ours}height_axis.query_table" not in backbone:
            raise WeightsError(
                f"{block.ours.rstrip('.')} is no block of axial attention with position tables, "
                "and the authors' code has no other; only a backbone with four axial stages can "
                "be written in their format."
            )
        sizes.append(BlockSize(block, down.shape[1], down.shape[0], up.shape[0]))
    return sizes


def _rules(sizes: list[BlockSize], num_heads: int, image_size: int) -> list[Rule]:
    rules = _plain(STEM)
    for size in sizes:
        has_shortcut = size.strides or size.inputs != size.outputs
        rules += _plain(block_pairs(size.block, num_heads, has_shortcut))
        rules += _table_rules(size.block, table_length(size.block, image_size))
    return rules


def _plain(pairs: list[Pair]) -> list[Rule]:
    return [pair.rule_to_theirs() for pair in pairs]


def _table_rules(block: Block, length: int) -> list[Rule]:
    rules = []
    for ours, theirs in AXES.items():
        tables = tuple(f"{block.ours}{ours}{table}" for table in TABLES)
        target = f"{block.theirs}{theirs}"
        rules += [
            Rule(tables, f"{target}relative", partial(layouts.join_tables, length=length)),
            Rule(
                tables[:1], f"{target}flatten_index", partial(layouts.flatten_index, length=length)
            ),
        ]
    return rules


def _table_notes(
    backbone: Mapping[str, Tensor], sizes: list[BlockSize], image_size: int
) -> list[str]:
    rows = backbone["res2.0.height_axis.query_table"].shape[0]
    lengths = sorted({2 * table_length(size.block, image_size) - 1 for size in sizes})
    if lengths == [rows]:
        return []
    return [
        f"position tables of {rows} rows cut or continued (repeating the last row) to {lengths} "
        f"rows, those of the axes of images of {image_size}×{image_size}"
    ]
