"""VGG-16 as DeepLab-LargeFOV, and DANet's dilated ResNets from Detectron2's own builder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from axial_d2.backbone import VGG16LargeFOV
from axial_d2.engine.setup import load_config
from detectron2.modeling import build_backbone, build_sem_seg_head

CITYSCAPES = Path(__file__).parents[2] / "configs" / "cityscapes"


def test_vgg_has_the_papers_parameters_and_strides() -> None:
    with torch.device("meta"):
        vgg = VGG16LargeFOV(out_features=["conv1", "conv2", "conv3", "conv4", "conv5", "fc7"])
    # torchvision's thirteen convolutions, fc6 as 3×3 and fc7 as 1×1.
    expected = 14_714_688 + (9 * 512 + 1) * 1024 + (1024 + 1) * 1024
    assert sum(p.numel() for p in vgg.parameters()) == expected
    # With the classifier of VOC's 21 classes: DeepLab-LargeFOV's 20.5M.
    assert expected + (1024 + 1) * 21 == pytest.approx(20.5e6, rel=0.002)
    shapes = vgg.output_shape()
    features = vgg(torch.empty(1, 3, 321, 325, device="meta"))
    for name, stride in {"conv1": 2, "conv2": 4, "conv3": 8, "conv4": 8, "fc7": 8}.items():
        assert shapes[name].stride == stride
        size = (-(-321 // stride), -(-325 // stride))
        assert features[name].shape == (1, shapes[name].channels, *size)


def test_vgg_sees_as_far_as_its_dilations_say() -> None:
    vgg = VGG16LargeFOV(width_multiplier=0.02, out_features=["conv4", "fc7"], dropout=0.0)
    size = 8 * 80
    image = torch.randn(1, 3, 16, size, requires_grad=True)
    features = vgg(image)
    for name, reach in {"conv4": 4, "fc7": 4 + 3 * 2 + 12 + 1}.items():
        image.grad = None
        features[name][..., 40].sum().backward(retain_graph=True)
        seen = image.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
        # In cells of 8 pixels, to the left of column 40; conv1 to conv3 see less than 8 beyond.
        cells = 40 - seen.min().item() // 8
        assert reach <= cells <= reach + 8


def test_vgg_options_and_errors() -> None:
    vgg = VGG16LargeFOV(width_multiplier=0.25, norm="BN", out_features=["conv5"])
    assert vgg.output_shape()["conv5"].channels == 128
    assert vgg(torch.randn(2, 3, 17, 24))["conv5"].shape == (2, 128, 3, 3)
    for options, message in (
        ({"out_features": ["fc8"]}, r"OUT_FEATURES \['fc8'\]"),
        ({"width_multiplier": 0.0}, "WIDTH_MULTIPLIER is 0.0"),
        ({"dropout": 1.0}, "DROPOUT is 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            VGG16LargeFOV(**options)


@pytest.mark.parametrize(("depth", "total"), [(50, 47.46e6), (101, 66.45e6)])
def test_danets_resnets_have_stride_8_and_the_multi_grid(depth: int, total: float) -> None:
    cfg = load_config(
        str(CITYSCAPES / "dual_attention" / f"danet_resnet{depth}.yaml"), ["MODEL.DEVICE", "cpu"]
    )
    with torch.device("meta"):
        backbone = build_backbone(cfg)
        head = build_sem_seg_head(cfg, backbone.output_shape())
        features = backbone(torch.empty(1, 3, 769, 768, device="meta"))
    assert features["res5"].shape == (1, 2048, 97, 96)
    assert backbone.output_shape()["res5"].stride == head.common_stride == 8
    assert [block.conv2.dilation[0] for block in backbone.res5] == [4, 8, 16]
    assert {block.conv2.dilation[0] for block in backbone.res4} == {2}
    parameters = sum(p.numel() for each in (backbone, head) for p in each.parameters())
    assert parameters == pytest.approx(total, rel=1e-3)
