"""Which backbone a DeepLab2 checkpoint belongs to, by the names and shapes of its variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from axial_d2.weights.core import WeightsError

Shapes = Mapping[str, tuple[int, ...]]
# Blocks of _stage2 … _stage5 with layer multiplier 1.
SWIDERNET_BLOCKS = (3, 6, 3, 3)
RESNET_DEPTHS = {(1, 2, 4, 1): 26, (2, 3, 5, 2): 38, (3, 4, 6, 3): 50}


def backbone_options(shapes: Shapes) -> list[Any]:
    """KEY VALUE pairs of a config that builds the backbone.

    Args:
        shapes: of the encoder's variables, by name without prefix and suffix.

    Raises:
        WeightsError: none of the backbones that axial_d2 builds.
    """
    common = {
        "WIDTH_MULTIPLIER": _width(shapes),
        "STEM_WIDTH_MULTIPLIER": _stem_width(shapes),
        "NUM_HEADS": _axial(shapes, "_batch_norm_similarity/gamma")[2],
        "SPAN": 0,
        "MAX_SPAN": (_axial(shapes, "_query_rpe/embeddings")[0] + 1) // 2,
        "NORM_EPS": 0.001,
        "NORM_MOMENTUM": 0.01,
    }
    builder, node, own = _kind(shapes)
    options: list[Any] = ["MODEL.BACKBONE.NAME", f"build_{builder}_backbone"]
    for key, value in {**own, **common}.items():
        options += [f"MODEL.{node}.{key}", value]
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        options += [f"MODEL.{key}", [127.5, 127.5, 127.5]]
    return options


def _kind(shapes: Shapes) -> tuple[str, str, dict[str, Any]]:
    """Builder, config node and its own options."""
    counts = tuple(_num_blocks(shapes, stage) for stage in (2, 3, 4, 5))
    if _num_blocks(shapes, 1):
        multiplier = counts[1] / SWIDERNET_BLOCKS[1]
        if counts == tuple(int(count * multiplier) for count in SWIDERNET_BLOCKS):
            return "axial_swidernet", "AXIAL_SWIDERNET", {"LAYER_MULTIPLIER": multiplier}
    elif "_stage2/_block1/_conv2_bn_act/_conv/kernel" in shapes:
        if counts == (3, 4, 6, 3):
            return "max_deeplab_s", "MAX_DEEPLAB_S", {}
    elif counts in RESNET_DEPTHS:
        three = "_stem/_conv3_bn/_conv/kernel" in shapes
        stem = "inception" if three else "conv7_unpooled"
        own = {"DEPTH": RESNET_DEPTHS[counts], "STEM": stem, "STRIDING": "subsample"}
        return "axial_resnet", "AXIAL_RESNET", own
    raise WeightsError(
        f"the checkpoint has {counts} blocks in its stages 2 to 5, which is none of DeepLab2's "
        "axial backbones; it may be incomplete."
    )


def _num_blocks(shapes: Shapes, stage: int) -> int:
    return len({found[1] for name in shapes if (found := re.match(rf"_stage{stage}/(\w+)/", name))})


def _width(shapes: Shapes) -> float:
    return _shape(shapes, r"_stage5/_block1/_conv3_bn/_conv/kernel")[3] / 2048


def _stem_width(shapes: Shapes) -> float:
    """The first convolution of any stem has 64 channels."""
    return _shape(shapes, r"_stem/(_conv1_bn_act/)?_conv/kernel")[3] / 64


def _axial(shapes: Shapes, variable: str) -> tuple[int, ...]:
    return _shape(shapes, rf"_stage5/_block1/_attention/_height_axis/{variable}")


def _shape(shapes: Shapes, pattern: str) -> tuple[int, ...]:
    for name, shape in shapes.items():
        if re.fullmatch(pattern, name):
            return shape
    raise WeightsError(
        f"the checkpoint lacks {pattern}, which DeepLab2's axial backbones have; it may be "
        "incomplete or of another backbone."
    )
