"""The pyramid of attention: its levels against a hand-written one, odd sizes, and its builders."""

from __future__ import annotations

import pytest
import torch
from axial_d2.backbone import AttentionFPN, AttentionP6P7
from axial_d2.layers import LocalAttention
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from tiny_backbones import ceil_div, let_branches_speak, tiny_config
from tiny_local import tiny_local_config
from torch import Tensor, nn

STRIDES = {"res3": 8, "res4": 16, "res5": 32}
# Images that no stride divides, and some that every stride does.
SIZES = [(64, 96), (97, 131), (33, 65), (1, 1), (1, 40), (31, 2)]
NAMES = {
    kind: (f"build_{kind}_attention_fpn_backbone", f"build_retinanet_{kind}_attention_fpn_backbone")
    for kind in ("axial_resnet", "local_attention_resnet", "resnet")
}
BUILDERS = [name for names in NAMES.values() for name in names]


class Maps(Backbone):
    """Made-up features of the right sizes, as good as any backbone's."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=8 * (i + 1), stride=stride)
            for i, (name, stride) in enumerate(STRIDES.items())
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {
            name: torch.randn(
                len(x),
                shape.channels,
                *(ceil_div(side, shape.stride) for side in x.shape[2:]),
                generator=generator,
            )
            for name, shape in self.output_shape().items()
        }


def pyramid(**options: object) -> AttentionFPN:
    torch.manual_seed(0)
    top = options.pop("top_block", None)
    return AttentionFPN(
        Maps(), list(STRIDES), 16, top_block=top, num_heads=2, span=3, **options
    ).eval()


def config(name: str, **keys: object) -> CfgNode:
    """Keys under ``MODEL.FPN.ATTENTION``."""
    if "local" in name:
        cfg = tiny_local_config(OUT_FEATURES=["res2", "res3", "res4", "res5"])
    else:
        cfg = tiny_config(OUT_FEATURES=["res2", "res3", "res4", "res5"])
    cfg.MODEL.BACKBONE.NAME = name
    first = 3 if "retinanet" in name else 2
    cfg.MODEL.FPN.IN_FEATURES = [f"res{n}" for n in range(first, 6)]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.FPN.ATTENTION.NUM_HEADS = 2
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    for key, value in keys.items():
        cfg.MODEL.FPN.ATTENTION[key] = value
    return cfg


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_levels_are_those_of_a_pyramid_written_out(size: tuple[int, int], fuse_type: str) -> None:
    fpn = pyramid(fuse_type=fuse_type, top_block=AttentionP6P7(24, 16, "res5", num_heads=2))
    image = torch.zeros(2, 3, *size)
    features = fpn.bottom_up(image)
    m5 = fpn.fpn_lateral5(features["res5"])

    def merged(lateral: nn.Module, feature: Tensor, coarse: Tensor) -> Tensor:
        fine = lateral(feature)
        rows = torch.arange(fine.shape[2]) // 2
        columns = torch.arange(fine.shape[3]) // 2
        total = fine + coarse[:, :, rows][:, :, :, columns]
        return total / 2 if fuse_type == "avg" else total

    m4 = merged(fpn.fpn_lateral4, features["res4"], m5)
    m3 = merged(fpn.fpn_lateral3, features["res3"], m4)

    def halved(x: Tensor) -> Tensor:
        """Means of what exists of each 2×2 block."""
        rows = torch.stack([x[:, :, i : i + 2].mean(2) for i in range(0, x.shape[2], 2)], 2)
        return torch.stack([rows[..., i : i + 2].mean(3) for i in range(0, x.shape[3], 2)], 3)

    p6 = halved(fpn.top_block.p6(features["res5"]))
    want = {
        "p3": fpn.fpn_output3.attention(m3),
        "p4": fpn.fpn_output4.attention(m4),
        "p5": fpn.fpn_output5.attention(m5),
        "p6": p6,
        "p7": halved(fpn.top_block.p7(p6.clamp(min=0))),
    }
    got = fpn(image)
    assert list(got) == list(want)
    for name, level in want.items():
        torch.testing.assert_close(got[name], level)
        stride = fpn.output_shape()[name].stride
        assert got[name].shape == (2, 16, *(ceil_div(side, stride) for side in size))


@pytest.mark.parametrize("top", [LastLevelP6P7(24, 16), LastLevelMaxPool(), None])
def test_without_attention_it_is_detectron2s(top: nn.Module | None) -> None:
    """The same keys in ``state_dict``, and the same levels where no stride leaves a rest."""
    ours = pyramid(output_attention=False, top_block=top, norm="BN")
    theirs = FPN(Maps(), list(STRIDES), 16, norm="BN", top_block=top).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.zeros(1, 3, 64, 96)
    got, want = ours(image), theirs(image)
    assert list(got) == list(want)
    for name in want:
        torch.testing.assert_close(got[name], want[name])
    assert ours.output_shape() == theirs.output_shape()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 12])
def test_p6_and_p7_have_the_sizes_of_the_convolutions(size: int) -> None:
    x = torch.randn(1, 16, size, 5)
    ours = AttentionP6P7(16, 16, num_heads=2, span=3)(x)
    theirs = LastLevelP6P7(16, 16)(x)
    assert [level.shape for level in ours] == [level.shape for level in theirs]


def test_p6_may_come_from_the_coarsest_level() -> None:
    fpn = pyramid(top_block=AttentionP6P7(16, 16, "p5", num_heads=2, span=3))
    levels = fpn(torch.zeros(1, 3, 97, 131))
    torch.testing.assert_close(levels["p6"], fpn.top_block(levels["p5"])[0])


def test_nothing_is_padded() -> None:
    """A multiple of the strides around an image would be seen by its attention."""
    assert pyramid().size_divisibility == 0


@pytest.mark.parametrize("name", BUILDERS)
def test_builders(name: str) -> None:
    assert name in BACKBONE_REGISTRY
    cfg = config(name)
    cfg.MODEL.FPN.NORM = "BN"
    backbone = build_backbone(cfg).eval()
    assert isinstance(backbone, AttentionFPN)
    let_branches_speak(backbone)
    levels = range(3, 8) if "retinanet" in name else range(2, 7)
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 41, 70))
    assert list(maps) == [f"p{level}" for level in levels]
    for level, each in zip(levels, maps.values(), strict=True):
        assert each.shape == (1, 16, ceil_div(41, 2**level), ceil_div(70, 2**level))
        assert each.isfinite().all()
    outputs = [backbone.fpn_output3, backbone.fpn_output5]
    assert all(isinstance(output.attention, LocalAttention) for output in outputs)
    assert isinstance(backbone.top_block, AttentionP6P7 if "retinanet" in name else nn.Module)


@pytest.mark.parametrize("parts", [[], ["output"], ["top"], ["output", "top"]])
def test_parts(parts: list[str]) -> None:
    _, name = NAMES["local_attention_resnet"]
    backbone = build_backbone(config(name, PARTS=parts))
    assert isinstance(backbone.fpn_output4, nn.Sequential) == ("output" in parts)
    assert isinstance(backbone.top_block, AttentionP6P7) == ("top" in parts)
    assert isinstance(backbone.fpn_lateral4, nn.Conv2d)


@pytest.mark.parametrize("builder", [1, "plain"])
def test_what_p6_is_made_from(builder: object) -> None:
    name = NAMES["axial_resnet"][1]
    cfg = config(name if builder == 1 else "build_retinanet_axial_resnet_fpn_backbone")
    for feature, channels in (("res5", 256), ("p5", 16)):
        cfg.MODEL.FPN.TOP_INPUT = feature
        top = build_backbone(cfg).top_block
        assert top.in_feature == feature
        first = top.p6.qkv if builder == 1 else top.p6
        assert first.in_channels == channels
    cfg.MODEL.FPN.TOP_INPUT = "p4"
    with pytest.raises(ValueError, match=r"AXIAL_RESNET.OUT_FEATURES \[.*lacks p4.*TOP_INPUT.*p5"):
        build_backbone(cfg)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"NUM_HEADS": 3}, r"FPN\.ATTENTION\.NUM_HEADS is 3.*16 channels of MODEL\.FPN\.OUT_CH"),
        ({"NUM_HEADS": 16}, r"NUM_HEADS is 16.*half row"),
        ({"NUM_HEADS": 0}, r"NUM_HEADS is 0; it must be at least 1"),
        ({"SPAN": 4}, r"MODEL\.FPN\.ATTENTION\.SPAN 4 is even.*odd"),
        ({"IMPL": "cuda"}, r"MODEL\.FPN\.ATTENTION\.IMPL is 'cuda'.*'blocked'"),
        ({"PARTS": ["lateral"]}, r"PARTS is \['lateral'\]; .*'output', 'top'"),
    ],
)
def test_errors_name_the_key(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(config(NAMES["axial_resnet"][1], **keys))
