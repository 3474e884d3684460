"""The backbone: sizes, counts, features, freezing, norms, and the doors it is built through."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from axial_d2 import add_axial_deeplab_config
from axial_d2.backbone import AxialBlock, AxialResNet
from axial_d2.backbone.blocks import STRIDING_CHOICES
from axial_d2.backbone.conv_blocks import BottleneckBlock
from axial_d2.backbone.stem import STEMS
from axial_d2.layers import NORM_CHOICES, AxialAttention
from cpu_implementations import ON_CPU
from detectron2.config import CfgNode, LazyCall, get_cfg, instantiate
from detectron2.layers import BatchNorm2d, FrozenBatchNorm2d, NaiveSyncBatchNorm, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from tiny_backbones import (
    FEATURES,
    TINY,
    assert_equal_maps,
    ceil_div,
    let_branches_speak,
    num_parameters,
    shape_only,
    tiny_backbone,
    tiny_config,
)
from torch import nn

WIDTHS = {"S": 0.5, "M": 0.75, "L": 1.0, "XL": 2.0}
BLOCKS = {26: [1, 2, 4, 1], 50: [3, 4, 6, 3]}
STEM_STRIDES = {
    "conv7": 4,
    "conv7_unpooled": 2,
    "deeplab": 4,
    "inception": 2,
    "axial": 4,
    "attention": 4,
}
NORM_CLASSES = {
    "BN": BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
}


class TestPublishedNumbers:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            # DeepLab2: the encoder of axial_deeplab_s; axial_resnet_s and axial_resnet_l.
            ({"stem": "inception", "width_multiplier": 0.5, "output_stride": 16}, 11_565_856),
            ({"stem": "conv7", "width_multiplier": 0.5}, 11_466_912),
            ({"stem": "conv7", "width_multiplier": 1.0}, 43_714_048),
        ],
    )
    def test_parameters_equal_deeplab2(self, options: dict, expected: int) -> None:
        assert num_parameters(shape_only(stem_width_multiplier=1.0, **options)) == expected

    @pytest.mark.parametrize("options", [{"output_stride": 8}, {"span": 65}, {"norm": "SyncBN"}])
    def test_stride_span_and_norm_need_no_parameters(self, options: dict) -> None:
        assert num_parameters(shape_only(**options)) == num_parameters(shape_only())

    @pytest.mark.parametrize("depth", BLOCKS)
    @pytest.mark.parametrize("size", WIDTHS)
    def test_channels_of_every_stage(self, size: str, depth: int) -> None:
        """Table 1: width 1.0 has 128 … 1024 in the bottleneck and 256 … 2048 outside."""
        width = WIDTHS[size]
        backbone = shape_only(width_multiplier=width, depth=depth)
        shapes = backbone.output_shape()
        assert shapes["stem"].channels == 128 * width
        for stage in range(4):
            name, channels = f"res{stage + 2}", 128 * 2**stage * width
            assert shapes[name].channels == 2 * channels
            blocks = list(getattr(backbone, name))
            assert len(blocks) == BLOCKS[depth][stage]
            for block in blocks:
                assert block.conv1.out_channels == channels
                for attention in (block.height_axis, block.width_axis):
                    assert attention.num_heads == 8
                    assert attention.value_channels == channels
                    assert attention.key_channels == channels / 2
                    assert attention.query_table.shape == (509, channels / 16)
                    assert attention.value_table.shape == (509, channels / 8)

    def test_first_stage_of_l_has_8_key_and_16_value_channels_a_head(self) -> None:
        attention = shape_only(width_multiplier=1.0).res2[0].height_axis
        assert (attention.query_table.shape[1], attention.value_table.shape[1]) == (8, 16)

    @pytest.mark.parametrize(
        ("width", "stem", "outputs"), [(0.125, 16, 32), (0.33, 48, 80), (0.01, 16, 16)]
    )
    def test_any_multiplier_gives_multiples_of_16(
        self, width: float, stem: int, outputs: int
    ) -> None:
        shapes = shape_only(width_multiplier=width).output_shape()
        assert (shapes["stem"].channels, shapes["res2"].channels) == (stem, outputs)
        assert all(shape.channels % 16 == 0 for shape in shapes.values())


class TestSizes:
    @pytest.mark.parametrize("stem", STEMS)
    @pytest.mark.parametrize("output_stride", [8, 16, 32])
    def test_strides(self, stem: str, output_stride: int) -> None:
        backbone = tiny_backbone(stem=stem, output_stride=output_stride).eval()
        strides = {name: shape.stride for name, shape in backbone.output_shape().items()}
        expected = {f"res{n}": min(2**n, output_stride) for n in range(2, 6)}
        assert strides == {"stem": STEM_STRIDES[stem], **expected}
        check_sizes(backbone, (64, 96))

    @pytest.mark.parametrize("striding", STRIDING_CHOICES)
    @pytest.mark.parametrize("stem", STEMS)
    @pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 70), (33, 65), (200, 9)])
    def test_any_size_is_rounded_up(self, size: tuple[int, int], stem: str, striding: str) -> None:
        """Smaller than a stride, odd, not square, and (max_span 3) longer than every table."""
        check_sizes(tiny_backbone(stem=stem, striding=striding, max_span=3).eval(), size)

    @pytest.mark.parametrize("size", [(1, 1), (3, 5), (33, 65)])
    def test_any_size_trains(self, size: tuple[int, int]) -> None:
        backbone = tiny_backbone(norm="naiveSyncBN")
        features = backbone(torch.randn(2, 3, *size))
        sum(feature.square().mean() for feature in features.values()).backward()
        for name, parameter in backbone.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    @pytest.mark.parametrize("channels", [1, 4])
    def test_input_channels(self, channels: int) -> None:
        backbone = tiny_backbone(in_channels=channels).eval()
        assert backbone(torch.randn(1, channels, 8, 8))["res2"].shape[1] == 32

    def test_stage_types_mix(self) -> None:
        types = ("conv", "axial", "conv", "axial")
        backbone = tiny_backbone(stage_types=types).eval()
        classes = [BottleneckBlock if kind == "conv" else AxialBlock for kind in types]
        for name, wanted in zip(FEATURES[1:], classes, strict=True):
            assert {type(block) for block in getattr(backbone, name)} == {wanted}
        check_sizes(backbone, (33, 47))


def check_sizes(backbone: AxialResNet, size: tuple[int, int]) -> None:
    """Every map is as large and as deep as ``output_shape`` says."""
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, *size))
    shapes = backbone.output_shape()
    assert features.keys() == shapes.keys()
    for name, feature in features.items():
        height, width = (ceil_div(extent, shapes[name].stride) for extent in size)
        assert feature.shape == (1, shapes[name].channels, height, width), name
        assert feature.isfinite().all()


class TestFeatures:
    @pytest.mark.parametrize("features", [("res5",), ("res2", "res4"), ("stem",), FEATURES])
    def test_only_those_asked_for(self, features: tuple[str, ...]) -> None:
        backbone = tiny_backbone(out_features=features).eval()
        assert set(backbone(torch.randn(1, 3, 32, 32))) == set(features)
        assert set(backbone.output_shape()) == set(features)
        last = max(FEATURES.index(name) for name in features)
        assert set(dict(backbone.named_children())) == set(FEATURES[: last + 1])

    def test_values_do_not_depend_on_what_else_is_asked_for(self) -> None:
        everything, some = tiny_backbone().eval(), tiny_backbone(out_features=("res3",)).eval()
        some.load_state_dict(everything.state_dict(), strict=False)
        x = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(some(x)["res3"], everything(x)["res3"])


class TestFreezing:
    @pytest.mark.parametrize("stem", ["deeplab", "axial"])
    @pytest.mark.parametrize("freeze_at", range(6))
    def test_frozen_stages_learn_nothing(self, freeze_at: int, stem: str) -> None:
        backbone = tiny_backbone(freeze_at=freeze_at, stem=stem, width_multiplier=0.25)
        for index, name in enumerate(FEATURES):
            stage = getattr(backbone, name)
            norms = Counter(type(m) for m in stage.modules() if hasattr(m, "running_var"))
            frozen = index < freeze_at
            assert set(norms) == {FrozenBatchNorm2d if frozen else BatchNorm2d}, name
            assert {p.requires_grad for p in stage.parameters()} == {not frozen}, name

    @pytest.mark.parametrize("freeze_at", [1, 3, 5])
    def test_frozen_stages_are_the_same_in_training(self, freeze_at: int) -> None:
        backbone = tiny_backbone(freeze_at=freeze_at)
        let_branches_speak(backbone)
        x = torch.randn(2, 3, 33, 40)
        state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        with torch.no_grad():
            in_eval, in_training = backbone.eval()(x), backbone.train()(x)
        for index, name in enumerate(FEATURES):
            same = torch.allclose(in_eval[name], in_training[name], rtol=1e-5, atol=1e-5)
            assert same == (index < freeze_at), name
        for name, tensor in backbone.state_dict().items():
            changed = not torch.equal(tensor, state[name])
            frozen = FEATURES.index(name.split(".")[0]) < freeze_at
            assert not (changed and frozen), name

    def test_everything_else_still_learns(self) -> None:
        backbone = tiny_backbone(freeze_at=2)
        features = backbone(torch.randn(2, 3, 32, 32))
        sum(feature.square().mean() for feature in features.values()).backward()
        for name, parameter in backbone.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name


class TestNorms:
    @pytest.mark.parametrize("stem", ["conv7", "deeplab", "inception", "axial"])
    @pytest.mark.parametrize("norm", NORM_CHOICES)
    def test_norm_is_honoured_everywhere(self, norm: str, stem: str) -> None:
        backbone = shape_only(
            norm=norm, stem=stem, depth=26, stage_types=("conv", "axial", "axial", "axial")
        )
        norms = [module for module in backbone.modules() if hasattr(module, "running_var")]
        assert {type(module) for module in norms} == {NORM_CLASSES[norm]}
        axial_blocks = 1 + 2 + 4 + (3 if stem == "axial" else 0) - 1 + 1
        convolutions = sum(
            isinstance(module, nn.Conv2d) and module.norm is not None
            for module in backbone.modules()
        )
        attentions = sum(isinstance(module, AxialAttention) for module in backbone.modules())
        assert attentions == 2 * axial_blocks
        # Beside the one on its projection, attention has two: of the logits and of the output.
        assert len(norms) == convolutions + 2 * attentions

    def test_no_layer_has_a_bias_beside_its_norm(self) -> None:
        backbone = shape_only(depth=26, stem="axial")
        assert all(m.bias is None for m in backbone.modules() if isinstance(m, nn.Conv2d))

    def test_residual_branches_start_at_nothing_unless_frozen(self) -> None:
        for norm in NORM_CHOICES:
            backbone = tiny_backbone(norm=norm, out_features=("res2",))
            start = 1.0 if norm == "FrozenBN" else 0.0
            assert {b.conv3.norm.weight.unique().item() for b in backbone.res2} == {start}


class TestOptions:
    # The fused kernels know no float64.
    @pytest.mark.parametrize("implementation", ["auto", *ON_CPU])
    @pytest.mark.parametrize("span", [0, 5])
    def test_implementation_changes_no_key_and_no_output(
        self, implementation: str, span: int
    ) -> None:
        reference = tiny_backbone(attention_impl="reference", span=span).double()
        let_branches_speak(reference)
        other = tiny_backbone(attention_impl=implementation, span=span).double()
        other.load_state_dict(reference.state_dict())
        x = torch.randn(2, 3, 33, 40, dtype=torch.float64)
        assert_equal_maps(other(x), reference(x), rtol=1e-7, atol=1e-7)
        assert_equal_maps(other.eval()(x), reference.eval()(x), rtol=1e-9, atol=1e-9)

    def test_implementation_reaches_every_attention(self) -> None:
        backbone = shape_only(attention_impl="reference", stem="axial", span=7, max_span=12)
        layers = [module for module in backbone.modules() if isinstance(module, AxialAttention)]
        assert {layer.implementation for layer in layers} == {"reference"}
        assert {layer.span for layer in layers} == {7}
        assert {layer.max_span for layer in layers} == {12}

    def test_full_axial_stem_has_span_15_where_the_rest_is_global(self) -> None:
        backbone = shape_only(stem="axial")
        stem = [m for m in backbone.stem.modules() if isinstance(m, AxialAttention)]
        rest = [m for m in backbone.res2.modules() if isinstance(m, AxialAttention)]
        assert {layer.span for layer in stem} == {15}
        assert {layer.span for layer in rest} == {0}

    def test_stem_width_may_differ(self) -> None:
        assert shape_only().output_shape()["stem"].channels == 64
        wide = shape_only(stem_width_multiplier=1.0)
        assert wide.output_shape()["stem"].channels == 128
        # 128 channels in and out: the first block of res2 needs no projection.
        assert wide.res2[0].shortcut is None

    def test_striding_variants_differ_in_nothing_but_the_stride(self) -> None:
        subsample, pool = tiny_backbone(), tiny_backbone(striding="avg_pool")
        let_branches_speak(subsample)
        pool.load_state_dict(subsample.state_dict())
        x = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            first, second = subsample.eval()(x), pool.eval()(x)
        torch.testing.assert_close(first["res2"], second["res2"])
        assert not torch.allclose(first["res3"], second["res3"])

    def test_bf16_autocast_on_the_cpu(self) -> None:
        backbone = tiny_backbone()
        x = torch.randn(2, 3, 33, 40)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            backbone(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = backbone(x)
            loss = sum(feature.float().square().mean() for feature in features.values())
        loss.backward()
        for name, parameter in backbone.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


class TestDoors:
    def test_from_config(self) -> None:
        assert "build_axial_resnet_backbone" in BACKBONE_REGISTRY
        cfg = tiny_config(
            STEM="conv7", STRIDING="avg_pool", SPAN=9, OUTPUT_STRIDE=16, ATTENTION_IMPL="blocked"
        )
        cfg.MODEL.BACKBONE.FREEZE_AT = 1
        built = build_backbone(cfg)
        plain = tiny_backbone(
            stem="conv7",
            striding="avg_pool",
            span=9,
            output_stride=16,
            attention_impl="blocked",
            freeze_at=1,
        )
        assert str(built) == str(plain)
        assert built.output_shape() == plain.output_shape()
        plain.load_state_dict(built.state_dict())
        x = torch.randn(1, 3, 33, 40)
        assert_equal_maps(plain.eval()(x), built.eval()(x))

    def test_every_key_of_the_config_reaches_the_constructor(self) -> None:
        """Each key, changed alone, changes the model, its features or its description."""
        changes: dict[str, object] = {
            "DEPTH": 50,
            "WIDTH_MULTIPLIER": 0.25,
            "STEM": "inception",
            "STEM_WIDTH_MULTIPLIER": 0.5,
            "STRIDING": "avg_pool",
            "STAGE_TYPES": ["conv", "axial", "axial", "axial"],
            "NUM_HEADS": 2,
            "SPAN": 3,
            "STAGE_SPANS": [0, 0, 0, 3],
            "MAX_SPAN": 5,
            "TERMS": CfgNode({**tiny_config().MODEL.AXIAL_RESNET.TERMS, "KEY_POSITION": False}),
            "OUTPUT_STRIDE": 8,
            "OUT_FEATURES": ["res2"],
            "NORM": "FrozenBN",
            "NORM_EPS": 1e-3,
            "NORM_MOMENTUM": 0.01,
            "ATTENTION_IMPL": "reference",
            "CHECKPOINT_STAGES": ["res3"],
        }
        assert {*changes, "POSITIONS"} == tiny_config().MODEL.AXIAL_RESNET.keys()

        def description(**keys: object) -> tuple:
            with torch.device("meta"):
                backbone = build_backbone(tiny_config(**keys))
            blocks = [m for m in backbone.modules() if isinstance(m, AxialBlock)]
            attention = [m for m in backbone.modules() if isinstance(m, AxialAttention)]
            return (
                str(backbone),
                str(backbone.output_shape()),
                [block.striding for block in blocks],
                [layer.implementation for layer in attention],
            )

        standard = description()
        for key, value in changes.items():
            assert description(**{key: value}) != standard, key
        local = {"STAGE_TYPES": ["local"] * 4, "SPAN": 3}  # which alone have a choice
        assert description(**local, POSITIONS="none") != description(**local)

    def test_input_shape_gives_the_channels(self) -> None:
        backbone = build_backbone(tiny_config(), ShapeSpec(channels=6))
        assert backbone.stem.conv1.in_channels == 6

    def test_lazy_call(self) -> None:
        lazy = LazyCall(AxialResNet)(**{**TINY, "out_features": list(FEATURES)})
        lazy.span = 5
        built = instantiate(lazy)
        assert str(built) == str(tiny_backbone(span=5))
        assert built.output_shape() == tiny_backbone(span=5).output_shape()

    def test_config_defaults_are_the_papers_segmentation(self) -> None:
        cfg = get_cfg()
        add_axial_deeplab_config(cfg)
        node = cfg.MODEL.AXIAL_RESNET
        assert (node.DEPTH, node.WIDTH_MULTIPLIER, node.OUTPUT_STRIDE) == (50, 0.5, 16)
        assert (node.NUM_HEADS, node.SPAN, node.MAX_SPAN) == (8, 0, 255)


class TestStateDict:
    NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def expected_block(self, shortcut: bool) -> set[str]:
        convs = ["conv1", "conv3", *(["shortcut"] if shortcut else [])]
        keys = {f"{conv}.weight" for conv in convs}
        keys |= {f"{conv}.norm.{name}" for conv in convs for name in self.NORM}
        for axis in ("height_axis", "width_axis"):
            keys |= {f"{axis}.{name}_table" for name in ("query", "key", "value")}
            keys.add(f"{axis}.qkv.weight")
            norms = ("qkv.norm", "logit_norm", "retrieved_norm")
            keys |= {f"{axis}.{norm}.{name}" for norm in norms for name in self.NORM}
        return keys

    def test_keys_are_frozen(self) -> None:
        expected = set()
        for conv in ("conv1", "conv2", "conv3"):
            expected.add(f"stem.{conv}.weight")
            expected |= {f"stem.{conv}.norm.{name}" for name in self.NORM}
        for stage, blocks in zip(FEATURES[1:], BLOCKS[26], strict=True):
            for index in range(blocks):
                keys = self.expected_block(shortcut=index == 0)
                expected |= {f"{stage}.{index}.{key}" for key in keys}
        assert set(tiny_backbone().state_dict()) == expected

    def test_keys_of_the_axial_stem(self) -> None:
        keys = {
            key.split(".", 2)[1]
            for key in shape_only(stem="axial").state_dict()
            if key.startswith("stem")
        }
        assert keys == {"block1", "block2", "block3"}

    @pytest.mark.parametrize(
        "options",
        [{"span": 5}, {"output_stride": 8}, {"striding": "avg_pool"}, {"norm": "SyncBN"}],
    )
    def test_keys_and_shapes_do_not_depend_on(self, options: dict) -> None:
        def shapes(backbone: AxialResNet) -> dict[str, torch.Size]:
            return {name: tensor.shape for name, tensor in backbone.state_dict().items()}

        assert shapes(shape_only(**options)) == shapes(shape_only())


def test_initial_features_have_a_sane_scale() -> None:
    """Fresh blocks are shortcuts, so the signal neither dies nor explodes through 11 blocks."""
    features = tiny_backbone()(torch.randn(2, 3, 64, 64))
    for name, feature in features.items():
        assert 0.1 < feature.std() < 10, name
        assert math.isfinite(feature.mean().item())
