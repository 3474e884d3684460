"""torchvision's and Detectron2's ResNets in convolutional stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
import torchvision
from axial_d2.backbone import AxialResNet
from axial_d2.weights.core import WeightsError
from axial_d2.weights.formats import convert, is_known, recognise
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from detectron2.modeling.backbone.resnet import ResNet
from torch import Tensor, nn

FEATURES = ("res2", "res3", "res4", "res5")
CONV = ("conv",) * 4
TOLERANCE = 1e-5


@cache
def torchvision_resnet() -> torchvision.models.ResNet:
    torch.manual_seed(0)
    model = torchvision.models.resnet50()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def backbone(stage_types: Sequence[str] = CONV, **settings: Any) -> AxialResNet:
    defaults: dict[str, Any] = {
        "width_multiplier": 1.0,
        "stem": "conv7",
        "stage_types": stage_types,
        "out_features": FEATURES,
        "max_span": 8,
    }
    return AxialResNet(**(defaults | settings)).eval()


def assert_features(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        deviation = (ours[name] - expected).abs().max() / expected.abs().max()
        assert deviation < TOLERANCE, name


def torchvision_features(image: Tensor) -> dict[str, Tensor]:
    model = torchvision_resnet()
    x = model.maxpool(model.relu(model.bn1(model.conv1(image))))
    features = {}
    for name, layer in zip(
        FEATURES, (model.layer1, model.layer2, model.layer3, model.layer4), strict=True
    ):
        features[name] = x = layer(x)
    return features


@torch.no_grad()
def test_torchvisions_features() -> None:
    model = backbone()
    report = convert(torchvision_resnet().state_dict(), model)
    assert report.unfilled == []
    assert report.ignored.keys() == {"fc.weight", "fc.bias"}
    assert report.notes == []
    model.load_state_dict(report.converted)
    image = torch.randn(1, 3, 70, 97)
    assert_features(model(image), torchvision_features(image))


@torch.no_grad()
def test_only_the_stages_that_are_convolutional() -> None:
    model = backbone(("conv", "conv", "axial", "axial"))
    report = convert(torchvision_resnet().state_dict(), model)
    assert {name.split(".")[0] for name in report.filled} == {"stem", "res2", "res3"}
    assert {name.split(".")[0] for name in report.unfilled} == {"res4", "res5"}
    assert "res4 of the model has blocks of another kind" in report.text()
    model.load_state_dict(report.converted, strict=False)
    image = torch.randn(1, 3, 64, 64)
    ours, theirs = model(image), torchvision_features(image)
    first = ("res2", "res3")
    assert_features({n: ours[n] for n in first}, {n: theirs[n] for n in first})


def test_a_stem_of_another_kind_stays_as_it_is() -> None:
    report = convert(
        torchvision_resnet().state_dict(),
        backbone(("axial", "axial", "conv", "conv"), stem="deeplab"),
    )
    assert {name.split(".")[0] for name in report.filled} == {"res4", "res5"}
    assert report.ignored["conv1.weight"] == "the model's stem is of another kind"


def detectron2_resnet(depth: int = 50, norm: str = "BN", stem: int = 64) -> ResNet:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = stem
    cfg.MODEL.RESNETS.OUT_FEATURES = list(FEATURES)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.bottom_up."])
def test_detectron2s_features(prefix: str) -> None:
    theirs = detectron2_resnet(norm="FrozenBN")
    source = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    others = {
        "proposal_generator.rpn_head.conv.weight": torch.ones(2),
        "pixel_mean": torch.ones(3),
        "backbone.fpn_lateral2.weight": torch.ones(2),
        f"{prefix}stem.fc.weight": torch.ones(2),
    }
    model = nn.ModuleDict({"backbone": backbone()})
    report = convert({**source, **others}, model)
    assert report.ignored.keys() == others.keys()
    assert all(name.endswith("num_batches_tracked") for name in report.unfilled)
    model.load_state_dict(report.converted, strict=False)
    image = torch.randn(1, 3, 64, 97)
    assert_features(model["backbone"].eval()(image), theirs(image))


def test_our_own_weights_go_from_one_config_to_another() -> None:
    settings: dict[str, Any] = {"stem": "deeplab", "width_multiplier": 0.125, "depth": 26}
    ours = {"backbone": backbone(("axial",) * 4, **settings), "head": nn.Linear(2, 2)}
    source = nn.ModuleDict(ours).state_dict()
    same = convert(source, nn.ModuleDict(ours))
    assert same.converted.keys() == source.keys()
    assert all(torch.equal(same.converted[name], source[name]) for name in source)
    longer = nn.ModuleDict({"backbone": backbone(("axial",) * 4, **settings | {"max_span": 20})})
    report = convert(source, longer)
    assert report.unfilled == []
    assert report.ignored.keys() == {"head.weight", "head.bias"}
    assert "48 × position table grown from 15 to 39 rows" in report.text()
    mixed = convert(source, backbone(("axial", "axial", "conv", "conv"), **settings))
    assert "res4.0 of the model is of another kind" in mixed.text()
    assert {name.split(".")[0] for name in mixed.unfilled} == {"res4", "res5"}


class TestWhatDoesNotFit:
    def test_a_stem_of_other_channels(self) -> None:
        words = r"layer1.0.conv1.weight of shape \(64, 64, 1, 1\).* has \(64, 128, 1, 1\)"
        with pytest.raises(WeightsError, match=words) as error:
            convert(torchvision_resnet().state_dict(), backbone(stem="deeplab"))
        assert "MODEL.AXIAL_RESNET.STEM conv7" in str(error.value)

    def test_no_convolutions_at_all(self) -> None:
        model = backbone(("axial",) * 4, stem="deeplab", width_multiplier=0.125, depth=26)
        with pytest.raises(WeightsError, match="the model has neither a 7×7 stem"):
            convert(torchvision_resnet().state_dict(), model)

    def test_another_depth(self) -> None:
        with torch.device("meta"):
            deeper = torchvision.models.resnet101().state_dict()
            shallow = torchvision.models.resnet18().state_dict()
        with pytest.raises(WeightsError, match=r"the ResNet has \(3, 4, 23, 3\) blocks"):
            convert(deeper, backbone())
        with pytest.raises(WeightsError, match=r"ResNet-50 \(3, 4, 6, 3\) has a counterpart"):
            convert(shallow, backbone())
        theirs = detectron2_resnet().state_dict()
        shorter = {name: t for name, t in theirs.items() if not name.startswith("res4.5.")}
        with pytest.raises(WeightsError, match=r"res4.5.\S+ needs res4.5.\S+, not in the source"):
            convert(shorter, backbone())
        longer = theirs | {"res4.6.conv1.weight": torch.ones(1)}
        with pytest.raises(WeightsError, match=r"res4.6.conv1.weight of the source has no place"):
            convert(longer, backbone())

    def test_caffe2s_weights_stride_elsewhere(self) -> None:
        names = {"conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w"}
        assert is_known(names)
        with pytest.raises(WeightsError, match="stride in the first 1×1 convolution"):
            recognise(names)
