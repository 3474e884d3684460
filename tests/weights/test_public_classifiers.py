"""Weights that others publish for ImageNet, in the classifiers of configs/imagenet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from authors_checkpoint import authors_tensors
from axial_d2.engine import StrictCheckpointer
from axial_d2.engine.setup import WITHOUT_FILES, load_config
from axial_d2.engine.skeleton import build_without_data
from torch import nn
from torchvision.models import resnet50

CONFIGS = Path(__file__).parents[2] / "configs" / "imagenet"


def load(name: str, path: Path, *opts: str) -> nn.Module:
    cfg = load_config(str(CONFIGS / f"{name}.yaml"), [*WITHOUT_FILES, "MODEL.DEVICE", "cpu", *opts])
    model = build_without_data(cfg, device="cpu").eval()
    for tensor in model.state_dict().values():
        tensor.fill_(77)
    StrictCheckpointer(model).load(str(path))
    return model


def test_the_authors_file_fills_the_whole_classifier(tmp_path: Path) -> None:
    source = authors_tensors(
        blocks=(1, 2, 4, 1), width=0.5, stem_channels=32, image_size=224, num_classes=1000
    )
    torch.save(source, tmp_path / "axial26s.pth")
    model = load("axial_resnet_26s", tmp_path / "axial26s.pth")
    assert torch.equal(model.linear.weight, source["fc.weight"])
    assert torch.equal(model.linear.bias, source["fc.bias"])
    counters = "num_batches_tracked"
    left = [n for n, t in model.state_dict().items() if counters not in n and (t == 77).all()]
    assert left == []


@pytest.mark.parametrize("size", [(64, 64), (75, 50)])
def test_torchvisions_resnet50_predicts_the_same(size: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = resnet50().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.6)
            nn.init.normal_(module.running_mean, std=0.1)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    ours = load("resnet50", tmp_path / "resnet50.pth")
    image = torch.rand(3, *size) * 255
    with torch.no_grad():
        (given,) = ours([{"image": image}])
        want = theirs((image[None] - ours.pixel_mean) / ours.pixel_std)[0]
    assert want.std() > 0.01
    torch.testing.assert_close(given["logits"], want, rtol=1e-3, atol=1e-4)
