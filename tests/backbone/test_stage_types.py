"""Any kind of stage in either backbone: blocks, spans, dilation, gradients, errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from axial_d2.backbone import (
    AttentionResNet,
    AxialBlock,
    AxialResNet,
    GlobalBlock,
    LocalAttentionResNet,
    LocalBlock,
    PositionSensitiveLocalBlock,
)
from axial_d2.backbone.stages import STAGE_TYPES
from axial_d2.layers import AttentionTerms, AxialAttention
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_resnet_backbone
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.projects.deeplab import add_deeplab_config, build_resnet_deeplab_backbone
from tiny_backbones import FEATURES, assert_equal_maps, ceil_div, tiny_backbone, tiny_config
from tiny_local import attentions, local_shape_only, tiny_local, tiny_local_config
from torch import nn

BLOCK_CLASSES = {
    "axial": AxialBlock,
    "conv": BottleneckBlock,
    "local": LocalBlock,
    "local_ps": PositionSensitiveLocalBlock,
    "global": GlobalBlock,
}
# Every type in every place.
ORDER = list(BLOCK_CLASSES)
MIXTURES = [tuple((ORDER * 2)[start : start + 4]) for start in range(5)]
BACKBONES: dict[str, Callable[..., AttentionResNet]] = {
    "axial": lambda **options: tiny_backbone(**{"span": 3, **options}),
    "local": tiny_local,
}
CONFIGS: dict[str, Callable[..., CfgNode]] = {"axial": tiny_config, "local": tiny_local_config}
NODES = {"axial": "MODEL.AXIAL_RESNET", "local": "MODEL.LOCAL_ATTENTION_RESNET"}

either_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def test_every_type_is_covered_here() -> None:
    assert BLOCK_CLASSES.keys() == STAGE_TYPES.keys()
    for place in range(4):
        assert {types[place] for types in MIXTURES} == set(STAGE_TYPES)


@either_backbone
@pytest.mark.parametrize("types", MIXTURES, ids="+".join)
def test_any_mixture_runs_and_learns(backbone: str, types: tuple[str, ...]) -> None:
    model = BACKBONES[backbone](stage_types=types, attention_impl="reference")
    assert type(model) is {"axial": AxialResNet, "local": LocalAttentionResNet}[backbone]
    for name, stage_type in zip(FEATURES[1:], types, strict=True):
        blocks = list(getattr(model, name))
        assert all(isinstance(block, BLOCK_CLASSES[stage_type]) for block in blocks), name
    features = model(torch.randn(2, 3, 37, 50))
    for name, shape in model.output_shape().items():
        size = (ceil_div(37, shape.stride), ceil_div(50, shape.stride))
        assert features[name].shape == (2, shape.channels, *size), name
    sum(feature.square().mean() for feature in features.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


class TestSpans:
    def test_span_per_stage(self) -> None:
        types = ("local", "axial", "local_ps", "axial")
        model = local_shape_only(stage_types=types, stage_spans=(3, 0, 9, 65))
        for name, span in zip(FEATURES[1:], (3, 0, 9, 65), strict=True):
            assert {layer.span for layer in attentions(getattr(model, name))} == {span}

    def test_one_span_for_all_without_them(self) -> None:
        model = local_shape_only(stage_types=("local", "axial", "local_ps", "local"), span=9)
        assert {layer.span for layer in attentions(model)} == {9}

    @pytest.mark.parametrize(("span", "stem_span"), [(0, 15), (7, 7), (65, 65)])
    def test_axial_stem_takes_the_one_span_or_15(self, span: int, stem_span: int) -> None:
        """Spans of the stages are not its business."""
        model = local_shape_only(
            stem="axial", span=span, stage_spans=(5, 5, 5, 5), stage_types=("axial",) * 4
        )
        assert {layer.span for layer in attentions(model.stem)} == {stem_span}
        assert {layer.span for layer in attentions(model.res2)} == {5}

    def test_axial_stem_takes_terms_striding_and_implementation(self) -> None:
        terms = AttentionTerms(key_position=False)
        model = local_shape_only(stem="axial", terms=terms, attention_impl="blocked")
        layers = [layer for layer in attentions(model.stem) if isinstance(layer, AxialAttention)]
        assert len(layers) == 2 * 3
        assert {layer.terms for layer in layers} == {terms}
        assert {layer.implementation for layer in layers} == {"blocked"}
        assert model.stem.block1.striding == "avg_pool"
        assert [block.stride for block in model.stem.children()] == [2, 1, 1]


class TestTermsAndPositions:
    def test_terms_reach_every_stage_that_has_them(self) -> None:
        terms = AttentionTerms(query_position=False, value_position=False)
        model = local_shape_only(stage_types=("local", "axial", "local_ps", "global"), terms=terms)
        for name in ("res3", "res4"):
            assert {layer.terms for layer in attentions(getattr(model, name))} == {terms}
        (content,) = {layer.terms for layer in attentions(model.res2)}
        assert (content.logits, content.retrieved) == ((True, False, False), (True, False))

    @pytest.mark.parametrize("positions", ["relative", "absolute", "none"])
    def test_positions_reach_every_local_stage(self, positions: str) -> None:
        model = local_shape_only(
            stage_types=("local", "conv", "global", "local"), positions=positions
        )
        layers = [*attentions(model.res2), *attentions(model.res5)]
        assert {layer.positions for layer in layers} == {positions}


def detectron2_resnet(output_stride: int) -> CfgNode:
    """A quarter as wide, so that it runs in a test."""
    cfg = get_cfg()
    add_deeplab_config(cfg)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    node = cfg.MODEL.RESNETS
    node.DEPTH, node.NORM, node.STRIDE_IN_1X1 = 50, "BN", False
    node.STEM_OUT_CHANNELS, node.WIDTH_PER_GROUP, node.RES2_OUT_CHANNELS = 16, 16, 64
    node.OUT_FEATURES = list(FEATURES[1:])
    node.STEM_TYPE = "basic"
    if output_stride < 32:
        node.RES5_DILATION = 32 // output_stride
    if output_stride == 8:  # which plain ResNet has not
        node.RES4_DILATION, node.RES5_MULTI_GRID = 2, [1, 1, 1]
    return cfg


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_convolutional_stages_are_detectron2s_resnet_dilated_beyond_the_stride(
    output_stride: int,
) -> None:
    build = build_resnet_deeplab_backbone if output_stride == 8 else build_resnet_backbone
    theirs = build(detectron2_resnet(output_stride), ShapeSpec(channels=3)).eval()
    ours = LocalAttentionResNet(
        width_multiplier=0.25,
        stage_types=("conv",) * 4,
        output_stride=output_stride,
        out_features=FEATURES[1:],
    ).eval()
    assert ours.output_shape() == theirs.output_shape()
    structure = [
        [
            (name, m.kernel_size, m.stride, m.padding, m.dilation)
            for name, m in model.named_modules()
            if isinstance(m, nn.Conv2d)
        ]
        for model in (ours, theirs)
    ]
    assert sorted(structure[0]) == sorted(structure[1])
    dilations = {block.conv2.dilation for block in ours.res5}
    assert dilations == {(32 // output_stride,) * 2}
    ours.load_state_dict(theirs.state_dict())
    # Ours always has channels last in memory, where sums are added in another order.
    x = torch.randn(1, 3, 65, 49).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert_equal_maps(ours(x), theirs(x), rtol=0, atol=0)


WINDOWS = ["conv", "local", "conv", "conv"]
BAD_VALUES: list[tuple[str, dict[str, Any], str]] = [
    ("span 0 with local", {"STAGE_TYPES": WINDOWS, "SPAN": 0}, "res3 attends to a 2-D window, but"),
    (
        "span 0 with local_ps",
        {"STAGE_TYPES": ["conv", "conv", "conv", "local_ps"], "SPAN": 0},
        "res5 attends to a 2-D window, but its span is 0",
    ),
    (
        "stage span 0 with local",
        {"STAGE_TYPES": WINDOWS, "SPAN": 3, "STAGE_SPANS": [3, 0, 3, 3]},
        "give an odd SPAN such as 7, or STAGE_SPANS, or choose the stage type global",
    ),
    ("even stage span", {"STAGE_SPANS": [3, 3, 4, 3]}, "{node}.STAGE_SPANS 4 is even"),
    ("negative stage span", {"STAGE_SPANS": [3, 3, -1, 3]}, "{node}.STAGE_SPANS -1 is negative"),
    (
        "even span behind stage spans",
        {"SPAN": 4, "STAGE_SPANS": [3, 3, 3, 3]},
        "{node}.SPAN 4 is even",
    ),
    (
        "too few stage spans",
        {"STAGE_SPANS": [3, 3]},
        "{node}.STAGE_SPANS [3, 3] has 2 entries; it needs one for each of ('res2', 'res3'",
    ),
    ("positions", {"POSITIONS": "learned"}, "{node}.POSITIONS is 'learned'; it must be one of"),
    (
        "absolute axial",
        {"STAGE_TYPES": ["local", "axial", "local", "local"], "POSITIONS": "absolute", "SPAN": 3},
        "{node}.POSITIONS is 'absolute', but ['axial'] among the stages and the stem know relative",
    ),
    (
        "no positions in local_ps and axial",
        {"STAGE_TYPES": ["local_ps", "axial", "local", "conv"], "POSITIONS": "none", "SPAN": 3},
        "['axial', 'local_ps'] among the stages and the stem know relative positions only; switch "
        "single terms off under {node}.TERMS",
    ),
    (
        "absolute axial stem",
        {"STEM": "axial", "STAGE_TYPES": ["local"] * 4, "POSITIONS": "absolute", "SPAN": 3},
        "{node}.POSITIONS is 'absolute', but ['axial'] among the stages and the stem know relative",
    ),
    (
        "absolute positions nowhere",
        {"STAGE_TYPES": ["global", "conv", "conv", "conv"], "POSITIONS": "absolute"},
        "{node}.POSITIONS is 'absolute', but no stage is local",
    ),
    (
        "heads of local",
        {"STAGE_TYPES": WINDOWS, "SPAN": 3, "NUM_HEADS": 3},
        "{node}.NUM_HEADS 3 does not divide the 16 query and key channels of res3 at {node}.WIDTH",
    ),
    (
        "heads of global",
        {"STAGE_TYPES": ["conv", "conv", "conv", "global"], "NUM_HEADS": 7},
        "{node}.NUM_HEADS 7 does not divide the 64 query and key channels of res5",
    ),
    (
        "odd channels a head",
        {"STAGE_TYPES": WINDOWS, "SPAN": 3, "NUM_HEADS": 16},
        "a head of 1 channels cannot be half row and half column positions",
    ),
    (
        "type",
        {"STAGE_TYPES": ["conv"] * 3 + ["bad"]},
        "{node}.STAGE_TYPES is 'bad'; it must be one",
    ),
]
BAD_TERMS = [
    (("QUERY_KEY", "QUERY_POSITION", "KEY_POSITION"), {}, "no logit term: QUERY_KEY"),
    (("VALUE_CONTENT", "VALUE_POSITION"), {}, "retrieves nothing: VALUE_CONTENT"),
    # Possible elsewhere, but a local stage has neither k·r nor the value's position.
    (("QUERY_KEY", "QUERY_POSITION"), {"STAGE_TYPES": WINDOWS, "SPAN": 3}, "no logit term"),
    (("VALUE_CONTENT",), {"STAGE_TYPES": WINDOWS, "SPAN": 3}, "retrieves nothing"),
    (
        ("QUERY_KEY",),
        {"STAGE_TYPES": WINDOWS, "SPAN": 3, "POSITIONS": "none"},
        "or the position encoding leaves none of them",
    ),
]


@either_backbone
@pytest.mark.parametrize(
    ("keys", "message"), [case[1:] for case in BAD_VALUES], ids=[case[0] for case in BAD_VALUES]
)
def test_bad_values_are_named(backbone: str, keys: dict[str, Any], message: str) -> None:
    message = message.replace("{node}", NODES[backbone])
    with pytest.raises(ValueError, match=re.escape(message)):
        build_backbone(CONFIGS[backbone](**keys))


@either_backbone
@pytest.mark.parametrize(("off", "keys", "message"), BAD_TERMS)
def test_impossible_terms_are_named(
    backbone: str, off: tuple[str, ...], keys: dict[str, Any], message: str
) -> None:
    cfg = CONFIGS[backbone](**keys)
    node = cfg.MODEL[NODES[backbone].split(".")[1]]
    for term in off:
        node.TERMS[term] = False
    with pytest.raises(ValueError, match=re.escape(message)):
        build_backbone(cfg)


@pytest.mark.parametrize("term", ["query_key", "value_content"])
def test_terms_that_a_global_stage_cannot_lack(term: str) -> None:
    with pytest.raises(ValueError, match=r"QUERY_KEY or VALUE_CONTENT, but res4 is global"):
        tiny_local(
            stage_types=("conv", "conv", "global", "conv"), terms=AttentionTerms(**{term: False})
        )


def test_global_and_convolutional_stages_ignore_spans_and_position_terms() -> None:
    terms = AttentionTerms(query_position=False, key_position=False, value_position=False)
    types = ("global", "conv", "global", "conv")
    plain = tiny_local(stage_types=types)
    other = tiny_local(stage_types=types, span=0, terms=terms)
    assert str(other) == str(plain)


def test_an_even_window_is_not_told_that_0_is_the_whole_axis() -> None:
    with pytest.raises(ValueError, match="is even") as windows:
        build_backbone(CONFIGS["local"](SPAN=6))
    assert "whole axis" not in str(windows.value)
