"""SASA's backbone: published sizes, depths, options, and the doors it is built through."""

from __future__ import annotations

import pytest
import torch
import torchvision
from axial_d2 import add_axial_deeplab_config
from axial_d2.backbone import LocalAttentionResNet, LocalBlock
from axial_d2.backbone.blocks import AttentionBlock
from axial_d2.layers import AttentionTerms
from detectron2.config import CfgNode, LazyCall, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from tiny_backbones import FEATURES, assert_equal_maps, ceil_div, let_branches_speak, num_parameters
from tiny_local import TINY_LOCAL, attentions, local_shape_only, tiny_local, tiny_local_config
from torch import nn

BLOCKS = {26: [1, 2, 4, 1], 38: [2, 3, 5, 2], 50: [3, 4, 6, 3]}
CLASSES = 1000
CONTENT_LESS = AttentionTerms(query_key=False)


def millions_with_classifier(**options: object) -> float:
    backbone = local_shape_only(**options)
    with torch.device("meta"):
        linear = nn.Linear(backbone.output_shape()["res5"].channels, CLASSES)
    return (num_parameters(backbone) + num_parameters(linear)) / 1e6


class TestPublishedNumbers:
    """SASA's tables 1, 3, 5 and 6: millions of parameters with ImageNet's classifier."""

    @pytest.mark.parametrize("stem", ["conv7", "attention"])
    @pytest.mark.parametrize(("depth", "millions"), [(26, 10.3), (38, 14.1), (50, 18.0)])
    def test_depths(self, depth: int, millions: float, stem: str) -> None:
        assert millions_with_classifier(depth=depth, stem=stem) == pytest.approx(millions, rel=0.01)

    @pytest.mark.parametrize(("depth", "millions"), [(26, 13.7), (38, 19.6), (50, 25.6)])
    def test_convolutional_baselines(self, depth: int, millions: float) -> None:
        given = millions_with_classifier(depth=depth, stage_types=["conv"] * 4)
        assert given == pytest.approx(millions, rel=0.01)

    def test_positions_alone_need_no_keys(self) -> None:
        assert millions_with_classifier(terms=CONTENT_LESS) == pytest.approx(16.7, rel=0.01)

    @pytest.mark.parametrize(
        ("conv_stages", "millions"),
        [
            ("", 18.0),
            ("1", 18.1),
            ("12", 18.5),
            ("123", 20.8),
            ("1234", 25.6),
            ("234", 25.5),
            ("34", 25.0),
            ("4", 22.7),
        ],
    )
    def test_mixtures_of_stages(self, conv_stages: str, millions: float) -> None:
        types = ["conv" if stage in conv_stages else "local" for stage in "1234"]
        assert millions_with_classifier(stage_types=types) == pytest.approx(millions, rel=0.01)

    def test_position_sensitive_attention(self) -> None:
        """Axial-DeepLab's table 3: 18.0M as well."""
        given = millions_with_classifier(stage_types=["local_ps"] * 4)
        assert given == pytest.approx(18.0, rel=0.01)

    @pytest.mark.parametrize("span", [3, 11])
    def test_window_costs_next_to_nothing(self, span: int) -> None:
        """2 tables of half a head for each row and each column."""
        head_channels = zip(BLOCKS[50], (8, 16, 32, 64), strict=True)
        offsets = (span - 7) * sum(blocks * channels for blocks, channels in head_channels)
        changed = millions_with_classifier(span=span) - millions_with_classifier()
        assert round(changed * 1e6) == offsets

    def test_convolutions_everywhere_are_torchvisions_resnet_50(self) -> None:
        with torch.device("meta"):
            resnet = torchvision.models.resnet50()
        expected = num_parameters(resnet) - num_parameters(resnet.fc)
        assert expected == 25_557_032 - (2048 + 1) * CLASSES
        backbone = local_shape_only(stage_types=["conv"] * 4)
        assert num_parameters(backbone) == expected

    @pytest.mark.parametrize("depth", BLOCKS)
    @pytest.mark.parametrize("width", [0.25, 0.5, 1.0, 2.0])
    def test_channels_of_every_stage(self, width: float, depth: int) -> None:
        backbone = local_shape_only(width_multiplier=width, depth=depth)
        shapes = backbone.output_shape()
        assert shapes["stem"].channels == 64 * width
        for stage, name in enumerate(FEATURES[1:]):
            assert shapes[name].channels == 256 * 2**stage * width
            blocks = list(getattr(backbone, name))
            assert len(blocks) == BLOCKS[depth][stage]
            for block in blocks:
                assert isinstance(block, LocalBlock)
                assert block.conv1.out_channels == 64 * 2**stage * width
                assert block.attention.num_heads == 8
                assert block.attention.span == 7

    @pytest.mark.parametrize("stem", ["conv7", "attention"])
    def test_stem_width_may_differ(self, stem: str) -> None:
        backbone = local_shape_only(stem=stem, width_multiplier=0.5)
        assert backbone.output_shape()["stem"].channels == 32
        wide = local_shape_only(stem=stem, width_multiplier=0.5, stem_width_multiplier=1.0)
        assert wide.output_shape()["stem"].channels == 64


class TestRunning:
    @pytest.mark.parametrize("stem", ["conv7", "attention", "axial"])
    @pytest.mark.parametrize("size", [(1, 1), (7, 38), (33, 17)])
    def test_any_size_is_rounded_up(self, size: tuple[int, int], stem: str) -> None:
        backbone = tiny_local(stem=stem).eval()
        with torch.no_grad():
            features = backbone(torch.randn(1, 3, *size))
        for name, shape in backbone.output_shape().items():
            rounded = tuple(ceil_div(side, shape.stride) for side in size)
            assert features[name].shape == (1, shape.channels, *rounded), name
            assert features[name].isfinite().all()

    def test_strides(self) -> None:
        for output_stride in (8, 16, 32):
            shapes = tiny_local(output_stride=output_stride).output_shape()
            strides = [shapes[name].stride for name in FEATURES]
            assert strides == [4, *(min(2**n, output_stride) for n in range(2, 6))]

    def test_sasa_pools_and_nothing_is_dilated(self) -> None:
        backbone = tiny_local(output_stride=8)
        blocks = [m for m in backbone.modules() if isinstance(m, AttentionBlock)]
        assert {block.striding for block in blocks} == {"avg_pool"}
        assert {m.dilation for m in backbone.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}

    def test_output_stride_keeps_the_parameters(self) -> None:
        state = tiny_local(output_stride=32).state_dict()
        tiny_local(output_stride=8).load_state_dict(state)

    @pytest.mark.parametrize("implementation", ["auto", "blocked"])
    def test_implementation_changes_no_key_and_no_output(self, implementation: str) -> None:
        types = ("local", "local_ps", "local_ps", "axial")
        reference = tiny_local(stage_types=types).double()
        let_branches_speak(reference)
        other = tiny_local(stage_types=types, attention_impl=implementation).double()
        other.load_state_dict(reference.state_dict())
        x = torch.randn(2, 3, 33, 40, dtype=torch.float64)
        assert_equal_maps(other(x), reference(x), rtol=1e-7, atol=1e-7)
        assert_equal_maps(other.eval()(x), reference.eval()(x), rtol=1e-9, atol=1e-9)

    def test_keys_are_frozen(self) -> None:
        """What is not in test_attention_blocks: the stages and where the first shortcut is."""
        keys = tiny_local().state_dict()
        stages = {key.split(".conv1.weight")[0] for key in keys if ".conv1.weight" in key}
        expected = {f"res{n + 2}.{i}" for n, blocks in enumerate(BLOCKS[26]) for i in range(blocks)}
        assert stages - {"stem"} == expected
        shortcuts = {key.rsplit(".", 2)[0] for key in keys if "shortcut.weight" in key}
        assert shortcuts == {f"res{n}.0" for n in range(2, 6)}
        assert {key.split(".")[0] for key in keys} == set(FEATURES)

    @pytest.mark.parametrize("freeze_at", [1, 3])
    def test_frozen_stages_learn_nothing(self, freeze_at: int) -> None:
        backbone = tiny_local(freeze_at=freeze_at, stem="attention")
        for index, name in enumerate(FEATURES):
            parameters = list(getattr(backbone, name).parameters())
            assert {p.requires_grad for p in parameters} == {index >= freeze_at}, name


class TestDoors:
    def test_from_config(self) -> None:
        assert "build_local_attention_resnet_backbone" in BACKBONE_REGISTRY
        options = {
            "stem": "attention",
            "striding": "subsample",
            "stage_types": ["conv", "local", "local_ps", "global"],
            "stage_spans": [3, 5, 3, 7],
            "output_stride": 16,
        }
        cfg = tiny_local_config(**{name.upper(): value for name, value in options.items()})
        cfg.MODEL.BACKBONE.FREEZE_AT = 1
        built, plain = build_backbone(cfg), tiny_local(**options, freeze_at=1)
        assert isinstance(built, LocalAttentionResNet)
        assert str(built) == str(plain)
        assert built.output_shape() == plain.output_shape()
        let_branches_speak(built)
        plain.load_state_dict(built.state_dict())
        x = torch.randn(1, 3, 33, 40)
        assert_equal_maps(plain.eval()(x), built.eval()(x))

    def test_every_key_of_the_config_reaches_the_constructor(self) -> None:
        """Each key, changed alone, changes the model, its features or its description."""
        standard_terms = tiny_local_config().MODEL.LOCAL_ATTENTION_RESNET.TERMS
        changes: dict[str, object] = {
            "DEPTH": 38,
            "WIDTH_MULTIPLIER": 0.25,
            "STEM": "attention",
            "STEM_WIDTH_MULTIPLIER": 0.5,
            "STRIDING": "subsample",
            "STAGE_TYPES": ["conv", "local", "local", "axial"],
            "NUM_HEADS": 2,
            "SPAN": 5,
            "STAGE_SPANS": [3, 3, 3, 5],
            "MAX_SPAN": 5,
            "POSITIONS": "absolute",
            "OUTPUT_STRIDE": 8,
            "OUT_FEATURES": ["res2"],
            "NORM": "FrozenBN",
            "NORM_EPS": 0.5,
            "NORM_MOMENTUM": 0.5,
            "ATTENTION_IMPL": "blocked",
            "CHECKPOINT_STAGES": ["res3"],
        }
        keys = tiny_local_config().MODEL.LOCAL_ATTENTION_RESNET.keys()
        assert {*changes, "TERMS"} == keys

        def description(**given: object) -> tuple:
            types = {"STAGE_TYPES": ["local_ps", "local", "local", "axial"]}
            if "POSITIONS" in given:
                types = {}
            with torch.device("meta"):
                backbone = build_backbone(tiny_local_config(**{**types, **given}))
            return (
                str(backbone),
                str(backbone.output_shape()),
                [block.striding for block in backbone.modules() if hasattr(block, "striding")],
                [layer.implementation for layer in attentions(backbone)],
                [getattr(layer, "terms", None) for layer in attentions(backbone)],
            )

        for key, value in changes.items():
            same = {"POSITIONS": "relative"} if key == "POSITIONS" else {}
            assert description(**{key: value}) != description(**same), key
        for term in standard_terms:
            terms = CfgNode({**standard_terms, term: False})
            if term == "VALUE_CONTENT":  # which alone the local stages have
                types = ["local_ps", "local_ps", "conv", "axial"]
                changed = description(TERMS=terms, STAGE_TYPES=types)
                assert changed != description(STAGE_TYPES=types)
            else:
                assert description(TERMS=terms) != description(), term

    def test_axial_resnet_has_the_same_keys(self) -> None:
        cfg = tiny_local_config()
        axial, local = cfg.MODEL.AXIAL_RESNET, cfg.MODEL.LOCAL_ATTENTION_RESNET
        assert axial.keys() == local.keys()
        assert axial.TERMS.keys() == local.TERMS.keys()

    def test_input_shape_gives_the_channels(self) -> None:
        backbone = build_backbone(tiny_local_config(STEM="attention"), ShapeSpec(channels=6))
        assert backbone.stem.in_channels == 6

    def test_lazy_call(self) -> None:
        lazy = LazyCall(LocalAttentionResNet)(**{**TINY_LOCAL, "out_features": list(FEATURES)})
        lazy.span = 5
        assert str(instantiate(lazy)) == str(tiny_local(span=5))

    def test_config_defaults_are_sasas(self) -> None:
        cfg = get_cfg()
        add_axial_deeplab_config(cfg)
        node = cfg.MODEL.LOCAL_ATTENTION_RESNET
        assert (node.DEPTH, node.WIDTH_MULTIPLIER, node.STEM) == (50, 1.0, "conv7")
        assert (node.SPAN, node.NUM_HEADS, node.POSITIONS) == (7, 8, "relative")
        assert (node.STRIDING, node.STAGE_TYPES) == ("avg_pool", ["local"] * 4)
        assert all(node.TERMS.values())
