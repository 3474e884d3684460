"""The configs of DeepLab2's Cityscapes models build what its weights belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from axial_d2.backbone import AxialResNet, AxialSWideRNet, MaXDeepLabSBackbone
from axial_d2.engine.checks import check_config
from axial_d2.engine.setup import load_config
from axial_d2.meta_arch import AxialDeepLab
from detectron2.config import CfgNode
from detectron2.modeling import build_model

CONFIGS = Path(__file__).parents[1] / "configs" / "cityscapes" / "deeplab2"
# Of everything after a backbone with 256, 512 and 2048 channels in res2, res3 and res5: DeepLab2
# counts 45,286,982 parameters for axial_deeplab_l, 43,841,920 of them in the encoder.
HEADS = 45_286_982 - 43_841_920
# Config → class of the backbone, parameters of the whole model, learning rate.
MODELS = {
    "axial_deeplab_s": (AxialResNet, 12_455_910, 1e-4),
    "axial_deeplab_l": (AxialResNet, 45_286_982, 1e-4),
    "axial_resnet_s": (AxialResNet, 12_455_910 - 11_565_856 + 11_466_912, 1e-4),
    "axial_resnet_l": (AxialResNet, 43_714_048 + HEADS, 1e-4),
    "axial_swidernet_x1": (AxialSWideRNet, 136_399_392 + HEADS, 1e-4),
    "axial_swidernet_x3": (AxialSWideRNet, 393_935_520 + HEADS, 1e-4),
    "axial_swidernet_x4.5": (AxialSWideRNet, 570_346_912 + HEADS, 7.5e-5),
    "max_deeplab_l_backbone": (AxialSWideRNet, 136_399_392 + HEADS, 7.5e-5),
    "max_deeplab_s_backbone": (MaXDeepLabSBackbone, 41_343_424 + HEADS, 1e-4),
}

NODES = {
    "axial_deeplab_s": "AXIAL_RESNET",
    "axial_swidernet_x1": "AXIAL_SWIDERNET",
    "max_deeplab_s_backbone": "MAX_DEEPLAB_S",
}


def load(name: str, *opts: Any) -> CfgNode:
    return load_config(str(CONFIGS / f"{name}.yaml"), ["MODEL.DEVICE", "cpu", *opts])


def build(cfg: CfgNode) -> AxialDeepLab:
    return build_model(cfg)


def test_every_config_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*MODELS, "Base-DeepLab2"}


@pytest.mark.parametrize("name", MODELS)
def test_builds_deeplab2s_model(name: str) -> None:
    backbone_class, parameters, learning_rate = MODELS[name]
    cfg = load(name)
    check_config(cfg)
    assert learning_rate == cfg.SOLVER.BASE_LR
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build(cfg)
    assert type(model.backbone) is backbone_class
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters
    strides = {feature: shape.stride for feature, shape in model.backbone.output_shape().items()}
    assert strides == {"res2": 4, "res3": 8, "res5": 16}


@pytest.mark.parametrize(
    "name", ["axial_deeplab_s", "axial_swidernet_x1", "max_deeplab_s_backbone"]
)
@pytest.mark.parametrize("size", [(33, 65), (50, 41)])
def test_predicts_at_any_size(name: str, size: tuple[int, int]) -> None:
    """At a reduced width, with the decoders and heads of the config."""
    node = (
        "MODEL."
        + {
            "axial_deeplab_s": "AXIAL_RESNET",
            "axial_swidernet_x1": "AXIAL_SWIDERNET",
            "max_deeplab_s_backbone": "MAX_DEEPLAB_S",
        }[name]
    )
    model = build(load(name, f"{node}.WIDTH_MULTIPLIER", 0.125)).eval()
    with torch.no_grad():
        (result,) = model([{"image": torch.randint(0, 256, (3, *size))}])
    assert result["sem_seg"].shape == (19, *size)
    assert result["panoptic_seg"][0].shape == size


def test_images_come_to_minus_one_to_one() -> None:
    cfg = load("max_deeplab_s_backbone")
    assert cfg.INPUT.FORMAT == "RGB"
    for value, expected in ((0, -1), (255, 1)):
        for mean, std in zip(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, strict=True):
            assert (value - mean) / std == expected
