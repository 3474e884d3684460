"""The local-attention backbone under Detectron2's feature pyramid, with every kind of stage."""

from __future__ import annotations

import math

import pytest
import torch
from axial_d2.backbone import LocalAttentionResNet
from axial_d2.backbone.stages import STAGE_TYPES
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone, build_model
from detectron2.modeling.backbone import FPN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_backbones import ceil_div, let_branches_speak
from tiny_local import tiny_local_config

PYRAMID = "build_local_attention_resnet_fpn_backbone"
RETINANET = "build_retinanet_local_attention_resnet_fpn_backbone"
NUM_CLASSES = 3


def pyramid_config(builder: str, **keys: object) -> CfgNode:
    cfg = tiny_local_config(OUT_FEATURES=["res2", "res3", "res4", "res5"], **keys)
    cfg.MODEL.BACKBONE.NAME = builder
    first = 3 if builder == RETINANET else 2
    cfg.MODEL.FPN.IN_FEATURES = [f"res{n}" for n in range(first, 6)]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return cfg


def retinanet(**keys: object) -> CfgNode:
    cfg = pyramid_config(RETINANET, **keys)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.RETINANET.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[2 ** (n + 2)] for n in range(5)]
    return cfg


def synthetic_inputs() -> list[dict]:
    """Two images of different sizes, neither a multiple of a stride, with two boxes each."""
    inputs = []
    for height, width in ((50, 45), (37, 41)):
        instances = Instances((height, width))
        boxes = [[4.0, 6.0, 30.0, 34.0], [12.0, 20.0, 40.0, 36.0]]
        instances.gt_boxes = Boxes(torch.tensor(boxes))
        instances.gt_classes = torch.tensor([0, 2])
        image = torch.rand(3, height, width) * 255
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
    return inputs


@pytest.mark.parametrize("stage_type", STAGE_TYPES)
def test_retinanet_trains_a_step(stage_type: str) -> None:
    stem = "attention" if stage_type == "local" else "conv7"
    model = build_model(retinanet(STAGE_TYPES=[stage_type] * 4, STEM=stem)).train()
    assert sum(isinstance(module, LocalAttentionResNet) for module in model.modules()) == 1
    let_branches_speak(model.backbone.bottom_up)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs, totals = synthetic_inputs(), []
    with EventStorage():
        for _ in range(2):
            total = sum(model(inputs).values())
            totals.append(total.item())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    assert all(map(math.isfinite, totals))
    assert totals[0] != totals[1]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # Shifts that a norm or a softmax removes again have a gradient of 0.
        if "weight" in name or "table" in name:
            assert parameter.grad.any(), name
    with torch.no_grad():
        predictions = model.eval()(inputs)
    for prediction, given in zip(predictions, inputs, strict=True):
        assert prediction["instances"].image_size == (given["height"], given["width"])


@pytest.mark.parametrize(("builder", "levels"), [(PYRAMID, range(2, 7)), (RETINANET, range(3, 8))])
@pytest.mark.parametrize("stem", ["conv7", "inception", "attention"])
def test_pyramid_levels(builder: str, levels: range, stem: str) -> None:
    assert builder in BACKBONE_REGISTRY
    backbone = build_backbone(pyramid_config(builder, STEM=stem)).eval()
    assert isinstance(backbone, FPN)
    assert isinstance(backbone.bottom_up, LocalAttentionResNet)
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 96))
    assert list(features) == [f"p{level}" for level in levels]
    for level, feature in zip(levels, features.values(), strict=True):
        assert feature.shape == (1, 16, ceil_div(64, 2**level), ceil_div(96, 2**level))
        assert backbone.output_shape()[f"p{level}"].stride == 2**level


@pytest.mark.parametrize("builder", [PYRAMID, RETINANET])
def test_pyramid_reads_the_local_node_and_names_it(builder: str) -> None:
    cfg = pyramid_config(builder, OUTPUT_STRIDE=16)
    cfg.MODEL.AXIAL_RESNET.OUTPUT_STRIDE = 32  # of the other backbone: does not count
    message = r"MODEL\.LOCAL_ATTENTION_RESNET\.OUTPUT_STRIDE is 16; .* set it to 32"
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)
    cfg = pyramid_config(builder)
    cfg.MODEL.AXIAL_RESNET.OUT_FEATURES = ["res2"]
    cfg.MODEL.AXIAL_RESNET.WIDTH_MULTIPLIER = 1.0
    build_backbone(cfg)


def test_retinanet_needs_res5() -> None:
    cfg = pyramid_config(RETINANET)
    cfg.MODEL.LOCAL_ATTENTION_RESNET.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4"]
    message = r"MODEL\.LOCAL_ATTENTION_RESNET\.OUT_FEATURES .* lacks res5"
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)


def test_pyramid_needs_features_the_backbone_returns() -> None:
    cfg = pyramid_config(PYRAMID)
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res6"]
    message = r"must be some of the backbone's MODEL\.LOCAL_ATTENTION_RESNET\.OUT_FEATURES"
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)
