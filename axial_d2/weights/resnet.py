"""torchvision's ResNets, for convolutional stages and the 7×7 stem."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from axial_d2.weights.core import Rule, Tensors, WeightsError, backbone_prefix, shapes_of
from axial_d2.weights.name_tables import (
    Block,
    blocks_per_stage,
    classifier_pairs,
    conv_pairs,
    our_blocks,
    their_blocks,
    without_lonely_counters,
)
from axial_d2.weights.semantics import differing_norms
from torch import Size, nn

BLOCKS = (3, 4, 6, 3)
STEM = conv_pairs("stem.conv1", "conv1", "bn1")
BLOCK = [pair for n in (1, 2, 3) for pair in conv_pairs(f"conv{n}", f"conv{n}", f"bn{n}")]
SHORTCUT = conv_pairs("shortcut", "downsample.0", "downsample.1")


class TorchvisionFormat:
    """Bottleneck ResNets; stems and blocks of another kind in the model stay as they are."""

    name = "torchvision ResNet"

    def recognises(self, names: Collection[str]) -> bool:
        return {"conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight"} <= set(names)

    def rules(self, model: nn.Module, source: Tensors) -> list[Rule]:
        shapes = shapes_of(model)
        prefix = backbone_prefix(shapes)
        pairs = list(STEM) if _has_plain_stem(shapes, prefix) else []
        for block in our_blocks(shapes, prefix):
            if not _is_bottleneck(shapes, prefix, block):
                continue
            has_shortcut = f"{prefix}{block.ours}shortcut.weight" in shapes
            inside = [*BLOCK, *(SHORTCUT if has_shortcut else ())]
            pairs += [pair.within(block.ours, block.theirs) for pair in inside]
        if not pairs:
            raise WeightsError(
                "the model has neither a 7×7 stem (conv7) nor convolutional stages, which is what "
                "a ResNet's weights can fill."
            )
        pairs = [pair.within(prefix, "") for pair in pairs] + classifier_pairs(shapes, prefix)
        rules = (pair.rule_to_ours() for pair in pairs)
        return list(without_lonely_counters(rules, source, shapes))

    def ignored(self, model: nn.Module, source: Tensors) -> list[tuple[str, str]]:
        shapes = shapes_of(model)
        prefix = backbone_prefix(shapes)
        others = [
            (rf"^{block.theirs}", f"res{block.stage} of the model has blocks of another kind")
            for block in our_blocks(shapes, prefix)
            if not _is_bottleneck(shapes, prefix, block)
        ]
        if not _has_plain_stem(shapes, prefix):
            others.append((r"^(conv1|bn1)\.", "the model's stem is of another kind"))
        return [
            *others,
            (r"^fc\.", "the ImageNet classifier, which the model lacks"),
            (r"num_batches_tracked$", "a counter of batches, which frozen norms lack"),
        ]

    def options(self, source: Tensors) -> list[Any]:
        blocks = blocks_per_stage(their_blocks(source))
        if blocks != BLOCKS or "layer1.0.conv3.weight" not in source:
            raise WeightsError(
                f"the ResNet has {blocks} blocks in its stages; of torchvision's, only ResNet-50 "
                f"{BLOCKS} has a counterpart here."
            )
        return conv_options(source["conv1.weight"].shape[0])

    def notes(self, model: nn.Module) -> list[str]:
        return differing_norms(model, 1e-5)


def conv_options(stem_channels: int) -> list[Any]:
    """KEY VALUE pairs of ResNet-50 as a backbone of ours."""
    node = "MODEL.AXIAL_RESNET."
    return [
        "MODEL.BACKBONE.NAME", "build_axial_resnet_backbone",
        node + "DEPTH", 50,
        node + "WIDTH_MULTIPLIER", 1.0,
        node + "STEM", "conv7",
        node + "STEM_WIDTH_MULTIPLIER", stem_channels / 64,
        node + "STAGE_TYPES", ["conv"] * 4,
        node + "NORM_EPS", 1e-5,
    ]  # fmt: skip


def _is_bottleneck(shapes: Mapping[str, Size], prefix: str, block: Block) -> bool:
    return {f"{prefix}{block.ours}conv{n}.weight" for n in (1, 2, 3)} <= shapes.keys()


def _has_plain_stem(shapes: Mapping[str, Size], prefix: str) -> bool:
    name = f"{prefix}stem.conv{{}}.weight"
    return (
        name.format(1) in shapes
        and name.format(2) not in shapes
        and tuple(shapes[name.format(1)][2:]) == (7, 7)
    )
