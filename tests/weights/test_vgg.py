"""torchvision's VGG-16 and ResNets in the networks of Attention to Scale and DANet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from axial_d2.backbone import VGG16LargeFOV
from axial_d2.engine.setup import load_config
from axial_d2.weights.core import WeightsError
from axial_d2.weights.formats import convert
from detectron2.modeling import build_backbone

CITYSCAPES = Path(__file__).parents[2] / "configs" / "cityscapes"


@pytest.fixture(scope="module")
def vgg_weights() -> dict[str, torch.Tensor]:
    """torchvision's VGG-16, its fully connected layers by their names alone."""
    weights = dict(
        torchvision.models.vgg16(init_weights=False).features.state_dict(prefix="features.")
    )
    for layer in (0, 3, 6):
        weights[f"classifier.{layer}.weight"] = torch.zeros(1, 1)
        weights[f"classifier.{layer}.bias"] = torch.zeros(1)
    return weights


def test_vgg_computes_torchvisions_features(vgg_weights: dict[str, torch.Tensor]) -> None:
    ours = VGG16LargeFOV(out_features=["conv1", "conv5"]).eval()
    report = convert(vgg_weights, ours)
    ours.load_state_dict(report.converted, strict=False)
    missing = set(ours.state_dict()) - set(report.converted)
    assert {name.partition(".")[0] for name in missing} == {"fc6", "fc7"}
    theirs = torchvision.models.vgg16(init_weights=False).features
    theirs.load_state_dict(
        {name.removeprefix("features."): t for name, t in vgg_weights.items() if "features" in name}
    )
    image = torch.randn(1, 3, 16, 16)
    # Up to the first pool the networks are one; LargeFOV's pools are larger.
    expected = torch.nn.functional.max_pool2d(theirs[:4](image), 3, stride=2, padding=1)
    torch.testing.assert_close(ours(image)["conv1"], expected)
    for stage, index in ((3, 14), (5, 28)):
        conv = getattr(getattr(ours, f"conv{stage}"), f"conv{stage}_3")
        assert torch.equal(conv.weight, theirs[index].weight)


def test_vgg_in_another_model_is_refused(vgg_weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(WeightsError, match="build_vgg16_largefov_backbone"):
        convert(vgg_weights, torch.nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("depth", [50, 101])
def test_danets_dilated_resnets_take_torchvisions(depth: int) -> None:
    name = f"dual_attention/danet_resnet{depth}.yaml"
    cfg = load_config(str(CITYSCAPES / name), ["MODEL.RESNETS.NORM", "BN", "MODEL.DEVICE", "cpu"])
    with torch.device("meta"):
        backbone = build_backbone(cfg)
        theirs = getattr(torchvision.models, f"resnet{depth}")()
    source = {name: torch.zeros(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert set(convert(source, backbone).converted) == set(backbone.state_dict())
