"""ImageNet checkpoints of the authors' PyTorch code: Axial-ResNet 26-S, 50-S, 50-M and 50-L.

Attention layers are named ``hight_block`` and ``width_block`` there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

from axial_d2.weights import authors_layouts as layouts
from axial_d2.weights.core import Rule, Tensors, WeightsError, backbone_prefix, shapes_of
from axial_d2.weights.name_tables import (
    Block,
    Pair,
    blocks_per_stage,
    classifier_pairs,
    conv_pairs,
    norm_pairs,
    our_blocks,
    their_blocks,
    without_lonely_counters,
)
from axial_d2.weights.semantics import differing_norms, differing_striding
from torch import nn

DEPTHS = {(1, 2, 4, 1): 26, (3, 4, 6, 3): 50}
STEM = conv_pairs("stem.conv1", "conv1", "bn1")
BLOCK = [
    *conv_pairs("conv1", "conv_down", "bn1"),
    *conv_pairs("conv3", "conv_up", "bn2"),
]
SHORTCUT = conv_pairs("shortcut", "downsample.0", "downsample.1")
AXES = {"height_axis.": "hight_block.", "width_axis.": "width_block."}
TABLES = {
    "query_table": layouts.query_table,
    "key_table": layouts.key_table,
    "value_table": layouts.value_table,
}


def attention_pairs(num_heads: int) -> list[Pair]:
    """One attention layer without its position tables."""
    heads: dict[str, Any] = {"num_heads": num_heads}
    return [
        Pair(
            "qkv.weight",
            "qkv_transform.weight",
            partial(layouts.unpack_qkv, **heads),
            partial(layouts.pack_qkv, **heads),
        ),
        *norm_pairs(
            "qkv.norm",
            "bn_qkv",
            partial(layouts.unpack_heads, **heads),
            partial(layouts.pack_heads, **heads),
        ),
        *norm_pairs("logit_norm", "bn_similarity"),
        *norm_pairs("retrieved_norm", "bn_output", layouts.separate, layouts.interleave),
    ]


def block_pairs(block: Block, num_heads: int, has_shortcut: bool) -> list[Pair]:
    """A whole block without its position tables."""
    pairs = [*BLOCK, *(SHORTCUT if has_shortcut else ())]
    for ours, theirs in AXES.items():
        pairs += [pair.within(ours, theirs) for pair in attention_pairs(num_heads)]
    return [pair.within(block.ours, block.theirs) for pair in pairs]


def table_rules(block: Block, prefix: str) -> list[Rule]:
    """From their one tensor of all tables to our three."""
    return [
        Rule((f"{block.theirs}{theirs}relative",), f"{prefix}{block.ours}{ours}{table}", layout)
        for ours, theirs in AXES.items()
        for table, layout in TABLES.items()
    ]


class AuthorsFormat:
    """See the module; ``fc`` is used where the model or its backbone has a ``linear``."""

    name = "authors' PyTorch (axial-deeplab, ImageNet)"

    def recognises(self, names: Collection[str]) -> bool:
        return "layer1.0.hight_block.qkv_transform.weight" in names

    def rules(self, model: nn.Module, source: Tensors) -> list[Rule]:
        shapes = shapes_of(model)
        prefix = backbone_prefix(shapes)
        blocks = our_blocks(shapes, prefix)
        _require_same_blocks(blocks_per_stage(their_blocks(source)), blocks_per_stage(blocks))
        pairs = list(STEM)
        tables = []
        for block in blocks:
            num_heads = _num_heads(shapes, prefix, block)
            pairs += block_pairs(block, num_heads, f"{prefix}{block.ours}shortcut.weight" in shapes)
            tables += table_rules(block, prefix)
        pairs = [pair.within(prefix, "") for pair in pairs] + classifier_pairs(shapes, prefix)
        rules = [pair.rule_to_ours() for pair in pairs] + tables
        _require_all(shapes, prefix, {rule.target for rule in rules})
        return list(without_lonely_counters(rules, source, shapes))

    def ignored(self, model: nn.Module, source: Tensors) -> list[tuple[str, str]]:
        return [
            (r"\.flatten_index$", "follows from the length of the tables"),
            (r"^fc\.", "the ImageNet classifier, which the model lacks"),
            (r"num_batches_tracked$", "a counter of batches, which frozen norms lack"),
        ]

    def options(self, source: Tensors) -> list[Any]:
        blocks = blocks_per_stage(their_blocks(source))
        if blocks not in DEPTHS:
            raise WeightsError(
                f"the checkpoint has {blocks} blocks in its stages; the authors' models have "
                f"one of {tuple(DEPTHS)}. It may be incomplete."
            )
        longest = max(t.shape[1] for name, t in source.items() if name.endswith(".relative"))
        node = "MODEL.AXIAL_RESNET."
        return [
            "MODEL.BACKBONE.NAME", "build_axial_resnet_backbone",
            node + "DEPTH", DEPTHS[blocks],
            node + "WIDTH_MULTIPLIER", source["layer1.0.conv_up.weight"].shape[0] / 256,
            node + "STEM", "conv7",
            node + "STEM_WIDTH_MULTIPLIER", source["conv1.weight"].shape[0] / 64,
            node + "STRIDING", "avg_pool",
            node + "NUM_HEADS", source["layer1.0.hight_block.bn_similarity.weight"].shape[0] // 3,
            node + "SPAN", 0,
            node + "MAX_SPAN", (longest + 1) // 2,
            node + "NORM_EPS", 1e-5,
        ]  # fmt: skip

    def notes(self, model: nn.Module) -> list[str]:
        return [*differing_striding(model, "avg_pool"), *differing_norms(model, 1e-5)]


def _require_same_blocks(theirs: tuple[int, ...], ours: tuple[int, ...]) -> None:
    if theirs != ours:
        raise WeightsError(
            f"the weights have {theirs} blocks in their stages, the model {ours} (another DEPTH)."
        )


def _num_heads(shapes: Any, prefix: str, block: Block) -> int:
    norm = f"{prefix}{block.ours}height_axis.logit_norm.weight"
    if norm not in shapes:
        raise WeightsError(
            f"{prefix}{block.ours.rstrip('.')} of the model has no axial attention; the authors' "
            "weights belong to a backbone whose stages are all axial."
        )
    return shapes[norm][0] // 3


def _require_all(shapes: Iterable[str], prefix: str, targets: set[str]) -> None:
    """The authors' checkpoints fill a whole backbone, or it is one of another kind."""
    others = [name for name in shapes if name.startswith(prefix) and name not in targets]
    own = [name for name in others if name.startswith((f"{prefix}stem.", f"{prefix}res"))]
    if own:
        raise WeightsError(
            f"the model has {own[0]}, which the authors' models lack"
            + (f" (and {len(own) - 1} more)" if len(own) > 1 else "")
            + "; their stem is conv7."
        )
