"""What a backbone consists of, by the names and lengths of its batch norms' gammas in DeepLab2."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from axial_d2.weights.core import WeightsError

# The last convolution of a block and another that it alone has → what it is called.
KINDS = {
    ("_conv3_bn", "_attention"): "axial",
    ("_conv3_bn", "_conv2_bn_act"): "bottleneck",
    ("_conv2_bn", ""): "basic",
}


def check_same_backbone(weights: Mapping[str, int], model: Mapping[str, int]) -> None:
    """Raises WeightsError unless both have blocks of the same kinds, numbers and channels.

    Args:
        weights: of the checkpoint's variables that end in "gamma", the last dimension by name
            (without prefix and suffix).
        model: the same for the model.
    """
    given, wanted = describe(weights), describe(model)
    if given != wanted:
        raise WeightsError(
            f"the weights belong to another backbone than the model's: they have {given}; the "
            f"model has {wanted}. Give the --config-file of the model that they belong to."
        )


def describe(gammas: Mapping[str, int]) -> str:
    """Such as "a stem of 64, 64, 128 channels, stage 2 of 3 axial blocks (256 channels), …"."""
    stem = [str(size) for name, size in sorted(gammas.items()) if name.startswith("_stem/")]
    stages: dict[int, dict[int, dict[str, int]]] = {}
    for name, size in gammas.items():
        found = re.match(r"_stage(\d)/_block(\d+)/(.*)", name)
        if found:
            blocks = stages.setdefault(int(found[1]), {})
            blocks.setdefault(int(found[2]), {})[found[3]] = size
    parts = [f"a stem of {', '.join(stem) or 'no'} channels"]
    for stage, blocks in sorted(stages.items()):
        kinds = Counter(_kind(block) for block in blocks.values())
        counts = " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        parts.append(f"stage {stage} of {counts} blocks ({_channels(blocks)} channels)")
    return ", ".join(parts)


def _kind(block: Mapping[str, int]) -> str:
    for parts, kind in KINDS.items():
        if all(any(name.startswith(f"{part}/") for name in block) for part in parts if part):
            return kind
    return "unknown"


def _channels(blocks: Mapping[int, Mapping[str, int]]) -> str:
    """Of the output of every block, one number where they agree."""
    lasts = ("_conv3_bn/_batch_norm/gamma", "_conv2_bn/_batch_norm/gamma")
    found = {block[last] for block in blocks.values() for last in lasts if last in block}
    return ", ".join(map(str, sorted(found)))
