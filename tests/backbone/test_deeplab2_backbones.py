"""DeepLab2's backbones of convolutions and axial attention: MaX-DeepLab's and Axial-SWideRNet."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from axial_d2.backbone import AxialBlock, AxialResNet, AxialSWideRNet, MaXDeepLabSBackbone
from axial_d2.backbone.conv_axial_resnet import ConvAxialResNet
from axial_d2.backbone.conv_blocks import BasicBlock, BottleneckBlock
from detectron2.layers import CNNBlockBase, Conv2d
from tiny_backbones import FEATURES, assert_equal_maps, let_branches_speak, num_parameters
from tiny_deeplab2 import BACKBONES, blocks_of, check_sizes, shape_only, tiny
from torch import Tensor, nn

SIZES = [(1, 1), (3, 5), (33, 47), (17, 200)]


class TestPublishedNumbers:
    @pytest.mark.parametrize(
        ("backbone", "multiplier", "blocks", "parameters"),
        [
            (MaXDeepLabSBackbone, 1.0, [3, 4, 6, 3], 41_343_424),
            # As well max_deeplab_l_backbone up to res5.
            (AxialSWideRNet, 1.0, [3, 6, 3, 3], 136_399_392),
            (AxialSWideRNet, 3.0, [9, 18, 9, 9], 393_935_520),
            (AxialSWideRNet, 4.5, [13, 27, 13, 13], 570_346_912),
        ],
    )
    def test_parameters_and_blocks(
        self,
        backbone: type[ConvAxialResNet],
        multiplier: float,
        blocks: list[int],
        parameters: int,
    ) -> None:
        model = shape_only(backbone, layer_multiplier=multiplier)
        assert [len(getattr(model, name)) for name in FEATURES[1:]] == blocks
        assert num_parameters(model) == parameters
        assert all(parameter.requires_grad for parameter in model.parameters())

    @pytest.mark.parametrize(
        ("width", "stem", "parameters"),
        [(0.5, "inception", 11_565_856), (1.0, "inception", 43_841_920)],
    )
    def test_axial_deeplab(self, width: float, stem: str, parameters: int) -> None:
        with torch.device("meta"):
            model = AxialResNet(width_multiplier=width, stem=stem, stem_width_multiplier=1.0)
        assert num_parameters(model) == parameters


class TestStructure:
    """The layout that the public weights have, block by block."""

    def test_max_deeplab_s(self) -> None:
        model = shape_only(MaXDeepLabSBackbone)
        stem = [(c.kernel_size[0], c.stride[0], c.out_channels) for c in model.stem.children()]
        assert stem == [(3, 2, 64), (3, 1, 64), (3, 1, 128)]
        for name, block in blocks_of(model):
            stage, index = int(name[3]), int(name[5:])
            filters = 2 ** (stage + 4)
            if stage < 4 or name == "res4.0":
                assert isinstance(block, BottleneckBlock)
                convs = [(1, filters), (3, filters), (1, 4 * filters)]
                assert sizes(block.conv1, block.conv2, block.conv3) == convs
                assert block.conv2.stride[0] == (2 if index == 0 else 1)
            else:
                check_axial(block, filters * 2, filters, filters * 2, filters * 4)
            assert (block.shortcut is not None) == (index == 0), name

    @pytest.mark.parametrize("multiplier", [1.0, 4.5])
    def test_axial_swidernet(self, multiplier: float) -> None:
        model = shape_only(AxialSWideRNet, layer_multiplier=multiplier)
        stem = model.stem
        assert (stem.conv1.kernel_size[0], stem.conv1.stride[0]) == (3, 2)
        assert (stem.conv1.out_channels, len(stem.res1)) == (64, 3)
        stages = [(f"res1.{index}", block) for index, block in enumerate(stem.res1)]
        for name, block in [*stages, *blocks_of(model)]:
            stage, index = int(name[3]), int(name[5:])
            channels = 2 ** (stage + 6)
            if stage < 4 or name == "res4.0":
                assert isinstance(block, BasicBlock)
                assert sizes(block.conv1, block.conv2) == [(3, channels)] * 2
                strides = (2 if index == 0 and stage > 1 else 1, 1)
                assert (block.conv1.stride[0], block.conv2.stride[0]) == strides, name
                assert block.conv2.dilation == (1, 1)
            else:
                check_axial(block, channels, channels // 2, channels, channels)
            assert (block.shortcut is not None) == (index == 0), name

    @pytest.mark.parametrize("backbone", BACKBONES)
    @pytest.mark.parametrize("output_stride", [8, 16, 32])
    def test_strides(self, backbone: type[ConvAxialResNet], output_stride: int) -> None:
        model = shape_only(backbone, output_stride=output_stride)
        shapes = model.output_shape()
        assert {name: shape.stride for name, shape in shapes.items()} == {
            "stem": 2,
            **{f"res{n}": min(2**n, output_stride) for n in range(2, 6)},
        }
        channels = [shapes[name].channels for name in FEATURES]
        assert channels == [128, 256, 512, 1024, 2048]
        dilated = {
            name: module.dilation[0]
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and module.dilation != (1, 1)
        }
        basic = output_stride == 8 and backbone is AxialSWideRNet
        assert dilated == ({"res4.0.conv2": 2} if basic else {})

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_blocks_start_as_their_shortcut(self, backbone: type[ConvAxialResNet]) -> None:
        for _, block in blocks_of(tiny(backbone)):
            last = block.conv2 if isinstance(block, BasicBlock) else block.conv3
            assert not last.norm.weight.any()

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_width_of_the_stem_may_differ(self, backbone: type[ConvAxialResNet]) -> None:
        """256 channels in and out of res2: its first block slices its input instead."""
        model = tiny(backbone, width_multiplier=0.125, stem_width_multiplier=0.25).eval()
        assert model.output_shape()["stem"].channels == 32
        assert model.res2[0].shortcut is None
        check_sizes(model, (21, 30))


def sizes(*convs: Conv2d) -> list[tuple[int, int]]:
    return [(conv.kernel_size[0], conv.out_channels) for conv in convs]


def check_axial(block: CNNBlockBase, inside: int, keys: int, values: int, out: int) -> None:
    assert isinstance(block, AxialBlock)
    assert block.striding == "subsample"
    assert sizes(block.conv1, block.conv3) == [(1, inside), (1, out)]
    for attention in (block.height_axis, block.width_axis):
        assert (attention.key_channels, attention.value_channels) == (keys, values)
        assert (attention.num_heads, attention.span, attention.max_span) == (8, 0, 255)


class DeepLab2:
    """DeepLab2's forward as its facts state it, with the weights of one of our backbones.

    Un-activated maps go from block to block; each block applies the ReLU at its input and hands
    the activated map to its branch and its shortcut; resN is the activated map of stage N.
    """

    def __init__(self, model: ConvAxialResNet):
        self.model = model

    def features(self, image: Tensor) -> dict[str, Tensor]:
        stem = self.model.stem
        if isinstance(self.model, AxialSWideRNet):
            x = self.conv(stem.conv1, image, stride=2)
            for block in stem.res1:
                x = self.block(block, x, 1)
        else:
            x = self.conv(stem.conv1, image, stride=2).relu()
            x = self.conv(stem.conv2, x).relu()
            x = self.conv(stem.conv3, x)
        outputs = {"stem": x.relu()}
        for stage in FEATURES[1:]:
            for index, block in enumerate(getattr(self.model, stage)):
                x = self.block(block, x, 2 if index == 0 and stage != "res5" else 1)
            outputs[stage] = x.relu()
        return outputs

    def block(self, block: CNNBlockBase, x: Tensor, stride: int) -> Tensor:
        x = x.relu()
        if block.shortcut is None:
            shortcut = x[:, :, ::stride, ::stride]
        else:
            shortcut = self.conv(block.shortcut, x, stride)
        if isinstance(block, BasicBlock):
            return shortcut + self.conv(block.conv2, self.conv(block.conv1, x, stride).relu())
        x = self.conv(block.conv1, x).relu()
        if isinstance(block, BottleneckBlock):
            x = self.conv(block.conv2, x, stride)
        else:
            x = block.height_axis(x)[:, :, ::stride]
            x = block.width_axis(x)[:, :, :, ::stride]
        return shortcut + self.conv(block.conv3, x.relu())

    @staticmethod
    def conv(conv: Conv2d, x: Tensor, stride: int = 1) -> Tensor:
        padding = (conv.kernel_size[0] - 1) // 2  # on all sides
        x = F.conv2d(F.pad(x, [padding] * 4), conv.weight, stride=stride)
        mean, variance, weight, bias = (
            tensor.view(-1, 1, 1)
            for tensor in (
                conv.norm.running_mean,
                conv.norm.running_var,
                conv.norm.weight,
                conv.norm.bias,
            )
        )
        return (x - mean) / (variance + 1e-3).sqrt() * weight + bias


@pytest.mark.parametrize("size", [(33, 49), (30, 21)])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_same_function_as_deeplab2(backbone: type[ConvAxialResNet], size: tuple[int, int]) -> None:
    model = tiny(backbone).double().eval()
    let_branches_speak(model)
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        assert_equal_maps(model(image), DeepLab2(model).features(image), rtol=1e-9, atol=1e-9)


class TestSizes:
    @pytest.mark.parametrize("output_stride", [8, 16, 32])
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_any_size(
        self, backbone: type[ConvAxialResNet], size: tuple[int, int], output_stride: int
    ) -> None:
        """Smaller than the stride, odd, longer than the tables (max_span 3)."""
        check_sizes(tiny(backbone, output_stride=output_stride, max_span=3).eval(), size)

    @pytest.mark.parametrize("size", [(1, 1), (3, 5), (33, 65)])
    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_any_size_trains(self, backbone: type[ConvAxialResNet], size: tuple[int, int]) -> None:
        model = tiny(backbone, norm="naiveSyncBN")
        let_branches_speak(model)
        features = model(torch.randn(2, 3, *size))
        sum(feature.square().mean() for feature in features.values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_res5_alone_teaches_every_weight(self, backbone: type[ConvAxialResNet]) -> None:
        model = tiny(backbone, drop_path_rate=0.0)
        let_branches_speak(model)
        model(torch.randn(2, 3, 65, 97))["res5"].square().mean().backward()
        for name, parameter in model.named_parameters():
            # The softmax of the logits ignores their shift.
            assert name.endswith("logit_norm.bias") or parameter.grad.any(), name

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_features_do_not_depend_on_what_else_is_asked_for(
        self, backbone: type[ConvAxialResNet]
    ) -> None:
        everything, some = tiny(backbone).eval(), tiny(backbone, out_features=("res3",)).eval()
        assert not hasattr(some, "res4")
        some.load_state_dict(everything.state_dict(), strict=False)
        x = torch.randn(1, 3, 32, 32)
        assert_equal_maps(some(x), {"res3": everything(x)["res3"]})


# Percent of the images whose branch is dropped, block by block in res2 … res5.
DROPPED = {
    MaXDeepLabSBackbone: [[0] * 3, [0] * 4, [0, *[15] * 5], [15, 20, 20]],
    AxialSWideRNet: [[0, 5, 5], [5, *[10] * 5], [10, 15, 15], [15, 20, 20]],
}


class TestDropPath:
    @pytest.mark.parametrize("output_stride", [8, 16, 32])
    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_rates(self, backbone: type[ConvAxialResNet], output_stride: int) -> None:
        """Whatever the output stride; never in the stem."""
        model = shape_only(backbone, output_stride=output_stride)
        for name, block in blocks_of(model):
            expected = DROPPED[backbone][int(name[3]) - 2][int(name[5:])] / 100
            assert block.drop_path.p == pytest.approx(expected), name
            assert block.drop_path.mode == "row"
        stem = [m.drop_path.p for m in model.stem.modules() if hasattr(m, "drop_path")]
        assert not any(stem)

    @pytest.mark.parametrize(
        ("backbone", "first"), [(MaXDeepLabSBackbone, 16), (AxialSWideRNet, 4)]
    )
    def test_deeplab2s_formula(self, backbone: type[ConvAxialResNet], first: int) -> None:
        """keep = 1 - 0.2 (log2(input stride) - 1) / 4."""
        model = shape_only(backbone, output_stride=32, layer_multiplier=2.0)
        stride = 2
        for name, block in blocks_of(model):
            keep = 1 - 0.2 * (math.log2(stride) - 1) / 4 if stride >= first else 1.0
            assert 1 - block.drop_path.p == pytest.approx(keep), name
            stride *= block.stride

    def test_rates_grow_with_the_last(self) -> None:
        twice = shape_only(AxialSWideRNet, drop_path_rate=0.4)
        rates = [block.drop_path.p for _, block in blocks_of(twice)]
        expected = [percent / 50 for stage in DROPPED[AxialSWideRNet] for percent in stage]
        assert rates == pytest.approx(expected)

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_matters_in_training_alone(self, backbone: type[ConvAxialResNet]) -> None:
        model, without = tiny(backbone, drop_path_rate=0.8), tiny(backbone, drop_path_rate=0.0)
        let_branches_speak(model)
        without.load_state_dict(model.state_dict())
        x = torch.randn(4, 3, 33, 33)
        with torch.no_grad():
            in_eval = model.eval()(x)
            assert_equal_maps(in_eval, without.eval()(x), rtol=0, atol=0)
            one, other = model.train()(x), model(x)
        assert not torch.allclose(one["res5"], other["res5"])
        rate_0 = without.train()
        with torch.no_grad():
            torch.testing.assert_close(rate_0(x)["res5"], rate_0(x)["res5"])
