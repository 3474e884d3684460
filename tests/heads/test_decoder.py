"""What the decoders start from, and that the rest of them is Detectron2's."""

from __future__ import annotations

import pytest
import torch
from axial_d2.heads import AxialDeepLabInsEmbedHead
from detectron2.projects.panoptic_deeplab.panoptic_seg import (
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
)
from small_heads import COMMON, INSTANCE, SEMANTIC, SHAPES, features, instance_head, semantic_head
from torch import nn


@pytest.mark.parametrize("kind", ["none", "projection", "aspp"])
@pytest.mark.parametrize("size", [(32, 48), (33, 47), (1, 1), (5, 70)])
def test_every_decoder_input_and_size_gives_maps_at_the_common_stride(
    kind: str, size: tuple[int, int]
) -> None:
    cells = (-(-size[0] // 4), -(-size[1] // 4))
    logits = semantic_head(decoder_input=kind).layers(features(*size))
    center, offset = instance_head(decoder_input=kind).layers(features(*size))
    assert logits.shape == (2, 5, *cells)
    assert center.shape == (2, 1, *cells)
    assert offset.shape == (2, 2, *cells)


def decoder_input_parameters(kind: str) -> int:
    module = semantic_head(decoder_input=kind).decoder["res5"]["project_conv"]
    return sum(p.numel() for p in module.parameters())


def test_what_stands_before_the_decoder() -> None:
    assert decoder_input_parameters("none") == 0
    assert decoder_input_parameters("projection") == 24 * 14 + 2 * 14
    assert decoder_input_parameters("aspp") > 5 * 14 * 14


def test_without_input_the_first_fusion_takes_res5_itself() -> None:
    fusion = semantic_head(decoder_input="none").decoder["res3"]["fuse_conv"]
    assert fusion.depthwise.in_channels == 24 + 6
    fusion = semantic_head(decoder_input="projection").decoder["res3"]["fuse_conv"]
    assert fusion.depthwise.in_channels == 14 + 6


def test_nothing_is_the_default() -> None:
    assert isinstance(semantic_head().decoder["res5"]["project_conv"], nn.Identity)


@pytest.mark.parametrize("depthwise", [True, False])
def test_the_semantic_head_with_aspp_is_detectron2s(depthwise: bool) -> None:
    ours = semantic_head(decoder_input="aspp", use_depthwise_separable_conv=depthwise)
    theirs = PanopticDeepLabSemSegHead(
        **{**COMMON, **SEMANTIC, "use_depthwise_separable_conv": depthwise}, train_size=None
    ).eval()
    ours.load_state_dict(theirs.state_dict())
    inputs = features()
    torch.testing.assert_close(ours.layers(inputs), theirs.layers(inputs), rtol=0, atol=0)


def test_the_instance_head_with_aspp_and_full_convolutions_is_detectron2s() -> None:
    options = {**COMMON, **INSTANCE, "use_depthwise_separable_conv": False}
    ours = AxialDeepLabInsEmbedHead(**options, decoder_input="aspp").eval()
    theirs = PanopticDeepLabInsEmbedHead(**options, train_size=None).eval()
    ours.load_state_dict(theirs.state_dict())
    inputs = features()
    for given, expected in zip(ours.layers(inputs), theirs.layers(inputs), strict=True):
        torch.testing.assert_close(given, expected, rtol=0, atol=0)


def test_the_center_head_is_as_light_as_the_offset_head() -> None:
    head = instance_head()
    count = [sum(p.numel() for p in m.parameters()) for m in (head.center_head, head.offset_head)]
    # 5×5 depthwise on 10 channels and 1×1 to 7, each with a norm's weight and bias.
    assert count == [10 * 25 + 2 * 10 + 10 * 7 + 2 * 7] * 2
    assert len(instance_head(use_depthwise_separable_conv=False).center_head) == 2


def test_an_unknown_decoder_input_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"DECODER_INPUT 'asp' .*'none', 'projection', 'aspp'"):
        semantic_head(decoder_input="asp")


@pytest.mark.parametrize(
    "wrong", [{"project_channels": [4]}, {"decoder_channels": [10, 10]}, {"project_channels": []}]
)
def test_lists_of_the_wrong_length_are_shown(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"needs 2 PROJECT_CHANNELS.*and 3 decoder channels"):
        semantic_head(**wrong)
    with pytest.raises(ValueError, match=r"\['res2', 'res3', 'res5'\]"):
        instance_head(**wrong)


def test_a_head_may_start_from_two_features() -> None:
    two = {name: SHAPES[name] for name in ("res3", "res5")}
    head = semantic_head(
        input_shape=two, project_channels=[6], decoder_channels=[10, 14], common_stride=8
    )
    assert head.layers(features()).shape == (2, 5, 4, 6)
