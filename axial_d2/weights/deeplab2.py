"""DeepLab2's TensorFlow checkpoints: whole panoptic models, and ImageNet backbones.

A variable's name is the path to it through DeepLab2's objects, with a fixed suffix. Panoptic
models have ``encoder/…`` beside their decoders and heads; ImageNet backbones are
``backbone/_encoder/…``. The slots of the optimizer lie beside the variables, where they were not
stripped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from axial_d2.weights.core import Rule, Tensors, WeightsError, backbone_prefix, shapes_of
from axial_d2.weights.deeplab2_names import (
    DECODERS,
    INCEPTION_STEM,
    SINGLE_STEM,
    block_pairs,
    branch_pairs,
    variables_of,
)
from axial_d2.weights.deeplab2_options import backbone_options
from axial_d2.weights.deeplab2_structure import check_same_backbone
from axial_d2.weights.name_tables import Pair
from axial_d2.weights.semantics import differing_norms, differing_striding
from torch import nn

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
PANOPTIC, IMAGENET = "encoder/", "backbone/_encoder/"
NORM_EPS = 1e-3
# Names of ours → what DeepLab2 calls the stage.
STAGES = {"stem.res1.": "_stage1", **{f"res{n}.": f"_stage{n}" for n in (2, 3, 4, 5)}}
IGNORED = [
    (r"/\.OPTIMIZER_SLOT/", "a slot of the optimizer"),
    (r"^optimizer/", "the optimizer's state"),
    (r"^(save_counter|global_step)/", "a counter of steps"),
    (
        r"encoder/_decoder_stage",
        "the stacked decoder of MaX-DeepLab-L, which panoptic models with its backbone do not use",
    ),
]


class DeepLab2Format:
    """See the module."""

    name = "DeepLab2 (TensorFlow)"

    def recognises(self, names: Collection[str]) -> bool:
        pattern = re.compile(rf"({PANOPTIC}|{IMAGENET})_stem/.*{re.escape(SUFFIX)}$")
        return any(map(pattern.match, names))

    def rules(self, model: nn.Module, source: Tensors) -> list[Rule]:
        shapes = shapes_of(model)
        prefix = backbone_prefix(shapes)
        backbone = [name.removeprefix(prefix) for name in shapes if name.startswith(prefix)]
        encoder = encoder_prefix(source)
        inside = backbone_pairs(backbone)
        check_same_backbone(
            _gammas(source, encoder),
            {p.theirs: shapes[prefix + p.ours][0] for p in inside if p.theirs.endswith("gamma")},
        )
        pairs = [pair.within(prefix, encoder) for pair in inside]
        for branch, decoder in DECODERS.items():
            in_source = any(name.startswith(f"{decoder}/") for name in source)
            if in_source and _has_branch(shapes, branch):
                pairs += branch_pairs(branch, _low_channels(shapes, branch))
        return [Rule((pair.theirs + SUFFIX,), pair.ours, pair.to_ours) for pair in pairs]

    def ignored(self, model: nn.Module, source: Tensors) -> list[tuple[str, str]]:
        ignored = list(IGNORED)
        if encoder_prefix(source) == IMAGENET:
            ignored.append((f"^(?!{IMAGENET})", "no part of the backbone"))
        shapes = shapes_of(model)
        for branch in DECODERS:
            if not _has_branch(shapes, branch):
                ignored.append((variables_of(branch), f"the model lacks a {branch}"))
        return ignored

    def options(self, source: Tensors) -> list[Any]:
        if encoder_prefix(source) == PANOPTIC:
            return []
        return backbone_options(
            {
                name.removeprefix(IMAGENET).removesuffix(SUFFIX): tuple(tensor.shape)
                for name, tensor in source.items()
                if name.startswith(IMAGENET) and "/.OPTIMIZER_SLOT/" not in name
            }
        )

    def notes(self, model: nn.Module) -> list[str]:
        parts = [model, *(getattr(model, b) for b in DECODERS if hasattr(model, b))]
        notes = [note for part in parts for note in differing_norms(part, NORM_EPS)]
        return [
            *dict.fromkeys(notes),
            *differing_striding(model, "subsample"),
            *_differing_stem(model),
            *_differing_images(model),
        ]


def encoder_prefix(names: Iterable[str]) -> str:
    """What stands before the backbone's variables."""
    return IMAGENET if any(name.startswith(IMAGENET) for name in names) else PANOPTIC


def _gammas(source: Tensors, encoder: str) -> dict[str, int]:
    """Weights of the encoder's batch norms by name within it, and how many they are."""
    ending = f"/gamma{SUFFIX}"
    return {
        name.removeprefix(encoder).removesuffix(SUFFIX): tensor.shape[-1]
        for name, tensor in source.items()
        if name.startswith(encoder) and name.endswith(ending) and "/.OPTIMIZER_SLOT" not in name
    }


def backbone_pairs(names: Sequence[str]) -> list[Pair]:
    """Ours and theirs, within backbone and encoder, for a backbone with these tensors.

    Raises:
        WeightsError: DeepLab2 has no such block.
    """
    pairs = list(INCEPTION_STEM if "stem.conv3.weight" in names else SINGLE_STEM)
    for block, tensors in _blocks(names).items():
        found = block_pairs(tensors)
        if found is None:
            raise WeightsError(
                f"{block.rstrip('.')} of the model is neither an axial nor a convolutional block, "
                "the two kinds that DeepLab2's backbones consist of."
            )
        stage, index = re.fullmatch(r"(.*\.)(\d+)\.", block).groups()  # type: ignore[union-attr]
        theirs = f"{STAGES[stage]}/_block{int(index) + 1}/"
        pairs += [pair.within(block, theirs) for pair in found]
    return pairs


def _blocks(names: Sequence[str]) -> dict[str, set[str]]:
    """Tensors in each block, by the block's name: "res2.0." and so on."""
    stages = "|".join(map(re.escape, STAGES))
    blocks: dict[str, set[str]] = {}
    for name in names:
        found = re.match(rf"((?:{stages})\d+\.)(.*)", name)
        if found:
            blocks.setdefault(found[1], set()).add(found[2])
    return blocks


def _has_branch(shapes: Iterable[str], branch: str) -> bool:
    return any(name.startswith(f"{branch}.decoder.") for name in shapes)


def _low_channels(shapes: Mapping[str, Sequence[int]], branch: str) -> tuple[int, int]:
    """Of the projections of res3 and res2."""
    names = [f"{branch}.decoder.{feature}.project_conv.weight" for feature in ("res3", "res2")]
    missing = [name for name in names if name not in shapes]
    if missing:
        raise WeightsError(
            f"the model lacks {missing[0]}; DeepLab2's decoders start from res5 and take in res3 "
            f"and res2, as IN_FEATURES of {branch} has to."
        )
    return shapes[names[0]][0], shapes[names[1]][0]


def _differing_stem(model: nn.Module) -> list[str]:
    stem = getattr(getattr(model, "backbone", model), "stem", None)
    if getattr(stem, "stride", 2) == 2:
        return []
    return [
        "DeepLab2's stems have no max-pool, the model's has (STEM inception or conv7_unpooled has "
        "none): features differ until it is fine-tuned"
    ]


def _differing_images(model: nn.Module) -> list[str]:
    """Of a panoptic model; backbones alone see no images of their own."""
    notes = []
    for name in ("pixel_mean", "pixel_std"):
        buffer = getattr(model, name, None)
        if buffer is not None and not buffer.is_meta and bool((buffer != 127.5).any()):
            notes.append(
                f"the weights were trained with {name.upper()} 127.5 in RGB order, the model has "
                f"{buffer.flatten().tolist()}: features differ until it is fine-tuned"
            )
    if getattr(model, "align_corners", True) is False:
        notes.append(
            "the weights were trained with PANOPTIC_DEEPLAB.ALIGN_CORNERS True, the model has "
            "False: outputs are displaced by up to half a cell"
        )
    return notes
