"""Bad values are refused before any work, with the key, the value and what is allowed."""

from __future__ import annotations

import pytest
import torch
from axial_d2.backbone.stages import STAGE_TYPES
from detectron2.modeling import build_backbone
from tiny_backbones import tiny_backbone, tiny_config

# What is wrong in the bad values that are lists.
NO_NAMES = ("mamba", "res1", "p2", "res6")
# Key, bad value, and what the message must say beside key and value.
BAD_VALUES = [
    ("DEPTH", 101, ["26", "50"]),
    ("STEM", "patchify", ["conv7", "deeplab", "inception", "axial"]),
    ("STRIDING", "conv", ["subsample", "avg_pool"]),
    ("OUTPUT_STRIDE", 4, ["8", "16", "32"]),
    ("OUTPUT_STRIDE", 64, ["8", "16", "32"]),
    ("ATTENTION_IMPL", "cuda", ["auto", "reference", "blocked"]),
    ("NORM", "GN", ["BN", "SyncBN", "naiveSyncBN", "FrozenBN"]),
    ("NORM", "", ["BN", "SyncBN", "naiveSyncBN", "FrozenBN"]),
    ("STAGE_TYPES", ["axial", "axial", "axial", "mamba"], [*STAGE_TYPES]),
    ("STAGE_TYPES", ["axial", "axial"], ["res2", "res3", "res4", "res5"]),
    ("OUT_FEATURES", ["res1"], ["stem", "res2", "res3", "res4", "res5"]),
    ("OUT_FEATURES", ["p2", "res5"], ["stem", "res2", "res3", "res4", "res5"]),
    ("OUT_FEATURES", [], ["stem", "res2", "res3", "res4", "res5"]),
    ("CHECKPOINT_STAGES", ["res2", "res6"], ["res2", "res3", "res4", "res5", "empty"]),
    ("CHECKPOINT_STAGES", ["stem"], ["res2", "res3", "res4", "res5", "empty"]),
    ("SPAN", 64, ["even", "odd", "0"]),
    ("SPAN", -65, ["negative", "odd", "0"]),
    ("MAX_SPAN", 0, ["greater than 0"]),
    ("MAX_SPAN", -1, ["greater than 0"]),
    ("WIDTH_MULTIPLIER", 0.0, ["greater than 0"]),
    ("WIDTH_MULTIPLIER", -0.5, ["greater than 0"]),
    ("STEM_WIDTH_MULTIPLIER", -1.0, ["greater than 0"]),
    ("NUM_HEADS", 0, ["greater than 0"]),
    ("NUM_HEADS", 3, ["does not divide", "WIDTH_MULTIPLIER 0.125"]),
]


@pytest.mark.parametrize(
    ("key", "value", "says"), BAD_VALUES, ids=[f"{key}={value}" for key, value, _ in BAD_VALUES]
)
def test_message_names_key_value_and_choices(key: str, value: object, says: list[str]) -> None:
    with pytest.raises(ValueError, match=f"MODEL.AXIAL_RESNET.{key}") as error:
        build_backbone(tiny_config(**{key: value}))
    bad = (
        next((v for v in value if v in ("mamba", "res1", "p2", "res6")), "")
        if _is_list(value)
        else value
    )
    for part in (str(bad), *says):
        assert part in str(error.value)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


@pytest.mark.parametrize("freeze_at", [-1, 6])
def test_freeze_at(freeze_at: int) -> None:
    cfg = tiny_config()
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    message = rf"MODEL\.BACKBONE\.FREEZE_AT is {freeze_at}; it must be between 0 .* and 5"
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)


def test_heads_that_do_not_divide_the_axial_stem() -> None:
    """The stem is narrower than every stage, so it can be the only one to fail."""
    with pytest.raises(ValueError, match=r"MODEL\.AXIAL_RESNET\.NUM_HEADS 8 does not divide"):
        build_backbone(tiny_config(STEM="axial", NUM_HEADS=8))


def test_heads_of_a_convolutional_stage_do_not_matter() -> None:
    tiny_backbone(num_heads=3, stage_types=("conv",) * 4)


def test_nothing_was_built_before_the_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(torch.nn.Conv2d, "__init__", lambda *args, **options: built.append(1))
    for key, value, _ in BAD_VALUES:
        with pytest.raises(ValueError, match=key):
            build_backbone(tiny_config(**{key: value}))
    assert not built


def test_image_without_batch_dimension_is_refused() -> None:
    with pytest.raises(AssertionError, match="shape"):
        tiny_backbone()(torch.randn(3, 32, 32))
