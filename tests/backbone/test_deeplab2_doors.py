"""The doors that DeepLab2's backbones are built through, bad values, norms and keys."""

from __future__ import annotations

import pytest
import torch
from axial_d2 import add_axial_deeplab_config
from axial_d2.backbone import AxialSWideRNet, MaXDeepLabSBackbone
from axial_d2.backbone.conv_axial_resnet import ConvAxialResNet
from axial_d2.layers import NORM_CHOICES, AxialAttention
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from tiny_backbones import FEATURES
from tiny_deeplab2 import BACKBONES, BUILDERS, TINY, shape_only, tiny, tiny_config
from torch import nn

# Of the blocks with TINY.
TINY_BLOCKS = {MaXDeepLabSBackbone: [2, 2, 4, 2], AxialSWideRNet: [2, 4, 2, 2]}


class TestNorms:
    @pytest.mark.parametrize("backbone", BACKBONES)
    @pytest.mark.parametrize("norm", NORM_CHOICES)
    def test_one_kind_with_deeplab2s_constants(
        self, norm: str, backbone: type[ConvAxialResNet]
    ) -> None:
        model = shape_only(backbone, norm=norm)
        norms = [module for module in model.modules() if hasattr(module, "running_var")]
        assert len({type(module) for module in norms}) == 1
        assert {module.eps for module in norms} == {1e-3}
        if norm != "FrozenBN":
            assert {module.momentum for module in norms} == {0.01}
        convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
        attentions = sum(isinstance(module, AxialAttention) for module in model.modules())
        assert len(norms) == convolutions + 2 * attentions

    @pytest.mark.parametrize("backbone", BACKBONES)
    @pytest.mark.parametrize("freeze_at", range(6))
    def test_frozen_stages(self, freeze_at: int, backbone: type[ConvAxialResNet]) -> None:
        model = tiny(backbone, freeze_at=freeze_at)
        for index, name in enumerate(FEATURES):
            stage = getattr(model, name)
            frozen = index < freeze_at
            norms = [module for module in stage.modules() if hasattr(module, "running_var")]
            assert {isinstance(module, FrozenBatchNorm2d) for module in norms} == {frozen}
            assert {module.eps for module in norms} == {1e-3}
            assert {p.requires_grad for p in stage.parameters()} == {not frozen}


class TestDoors:
    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_from_config(self, backbone: type[ConvAxialResNet]) -> None:
        cfg = tiny_config(backbone, OUTPUT_STRIDE=32, STEM_WIDTH_MULTIPLIER=0.25, SPAN=5)
        cfg.MODEL.BACKBONE.FREEZE_AT = 1
        built = build_backbone(cfg)
        plain = tiny(backbone, output_stride=32, stem_width_multiplier=0.25, span=5, freeze_at=1)
        assert type(built) is backbone
        assert str(built) == str(plain)
        assert built.output_shape() == plain.output_shape()

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_every_key_of_the_config_reaches_the_constructor(
        self, backbone: type[ConvAxialResNet]
    ) -> None:
        changes: dict[str, object] = {
            "LAYER_MULTIPLIER": 1.0,
            "WIDTH_MULTIPLIER": 0.125,
            "STEM_WIDTH_MULTIPLIER": 0.5,
            "NUM_HEADS": 1,
            "SPAN": 3,
            "MAX_SPAN": 5,
            "DROP_PATH_RATE": 0.1,
            "OUTPUT_STRIDE": 8,
            "OUT_FEATURES": ["res2"],
            "NORM": "FrozenBN",
            "NORM_EPS": 1e-5,
            "NORM_MOMENTUM": 0.1,
            "ATTENTION_IMPL": "reference",
            "CHECKPOINT_STAGES": ["res3"],
        }
        assert changes.keys() == backbone.node_of(tiny_config(backbone)).keys()

        def description(**keys: object) -> tuple:
            with torch.device("meta"):
                model = build_backbone(tiny_config(backbone, **keys))
            attention = [m for m in model.modules() if isinstance(m, AxialAttention)]
            return (
                str(model),
                str(model.output_shape()),
                [layer.implementation for layer in attention],
            )

        standard = description()
        for key, value in changes.items():
            assert description(**{key: value}) != standard, key

    def test_config_defaults_are_the_constructors(self) -> None:
        cfg = get_cfg()
        add_axial_deeplab_config(cfg)
        for backbone in BACKBONES:
            cfg.MODEL.BACKBONE.NAME = BUILDERS[backbone]
            backbone.node_of(cfg).NORM = "BN"
            cfg.MODEL.BACKBONE.FREEZE_AT = 0
            with torch.device("meta"):
                assert str(build_backbone(cfg)) == str(backbone())

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_input_shape_gives_the_channels(self, backbone: type[ConvAxialResNet]) -> None:
        model = build_backbone(tiny_config(backbone), ShapeSpec(channels=6))
        assert model.stem.conv1.in_channels == 6

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_lazy_call(self, backbone: type[ConvAxialResNet]) -> None:
        lazy = LazyCall(backbone)(**{**TINY, "out_features": list(FEATURES)})
        lazy.span = 5
        assert str(instantiate(lazy)) == str(tiny(backbone, span=5))


BAD_VALUES = [
    ("LAYER_MULTIPLIER", 0.0, ["greater than 0"]),
    ("LAYER_MULTIPLIER", 0.3, ["res2", "at least one", "1/3"]),
    ("WIDTH_MULTIPLIER", -1.0, ["greater than 0"]),
    ("STEM_WIDTH_MULTIPLIER", -1.0, ["greater than 0"]),
    ("NUM_HEADS", 0, ["greater than 0"]),
    ("NUM_HEADS", 3, ["does not divide", "WIDTH_MULTIPLIER 0.0625"]),
    ("SPAN", 64, ["even", "odd"]),
    ("MAX_SPAN", 0, ["greater than 0"]),
    ("DROP_PATH_RATE", 1.0, ["at least 0", "below 1"]),
    ("DROP_PATH_RATE", -0.1, ["at least 0", "below 1"]),
    ("OUTPUT_STRIDE", 4, ["8", "16", "32"]),
    ("OUT_FEATURES", ["res6"], ["res5", "stem"]),
    ("NORM", "GN", [*NORM_CHOICES]),
    ("NORM_EPS", 0.0, ["greater than 0"]),
    ("NORM_MOMENTUM", 2.0, ["at most 1"]),
    ("ATTENTION_IMPL", "cuda", ["auto", "reference", "blocked"]),
]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("key", "value", "says"), BAD_VALUES, ids=[f"{key}={value}" for key, value, _ in BAD_VALUES]
)
def test_bad_values_are_refused_before_anything_is_built(
    key: str,
    value: object,
    says: list[str],
    backbone: type[ConvAxialResNet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[int] = []
    monkeypatch.setattr(nn.Conv2d, "__init__", lambda *args, **options: built.append(1))
    with pytest.raises(ValueError, match=f"{backbone.config_node}.{key}") as error:
        build_backbone(tiny_config(backbone, **{key: value}))
    for part in (str(value), *says):
        assert part in str(error.value)
    assert not built


def test_heads_matter_where_there_is_attention_alone() -> None:
    """They divide the keys of res4 and res5, but would not divide those of an axial res2."""
    model = tiny(MaXDeepLabSBackbone, num_heads=16)
    assert model.res5[0].height_axis.num_heads == 16


NORM_KEYS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def convolution_keys(*names: str) -> set[str]:
    return {f"{name}.weight" for name in names} | {
        f"{name}.norm.{key}" for name in names for key in NORM_KEYS
    }


def axial_keys() -> set[str]:
    keys = convolution_keys("conv1", "conv3")
    for axis in ("height_axis", "width_axis"):
        keys |= {f"{axis}.{table}_table" for table in ("query", "key", "value")}
        keys |= convolution_keys(f"{axis}.qkv")
        for norm in ("logit_norm", "retrieved_norm"):
            keys |= {f"{axis}.{norm}.{key}" for key in NORM_KEYS}
    return keys


@pytest.mark.parametrize("backbone", BACKBONES)
def test_keys_of_the_state_dict_are_frozen(backbone: type[ConvAxialResNet]) -> None:
    bottleneck = backbone is MaXDeepLabSBackbone
    convs = ["conv1", "conv2", "conv3"] if bottleneck else ["conv1", "conv2"]
    if bottleneck:
        expected = convolution_keys("stem.conv1", "stem.conv2", "stem.conv3")
    else:
        expected = convolution_keys("stem.conv1", "stem.res1.0.shortcut")
        expected |= convolution_keys(*(f"stem.res1.{i}.{conv}" for i in range(3) for conv in convs))
    for stage, count in zip(FEATURES[1:], TINY_BLOCKS[backbone], strict=True):
        for index in range(count):
            name = f"{stage}.{index}"
            convolutional = stage in ("res2", "res3") or name == "res4.0"
            keys = convolution_keys(*convs) if convolutional else axial_keys()
            keys |= convolution_keys("shortcut") if index == 0 else set()
            expected |= {f"{name}.{key}" for key in keys}
    model = tiny(backbone, width_multiplier=0.125, stem_width_multiplier=0.0625)
    assert set(model.state_dict()) == expected
