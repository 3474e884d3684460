"""The backbone under Detectron2's own meta-architectures: each builds from a config and trains."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from axial_d2.backbone import AxialResNet
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone, build_model
from detectron2.modeling.backbone import FPN
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_backbones import ceil_div, tiny_config

NUM_CLASSES = 3
STEPS = 3


def fpn_config(**keys: object) -> CfgNode:
    cfg = tiny_config(OUT_FEATURES=["res2", "res3", "res4", "res5"], **keys)
    cfg.MODEL.BACKBONE.NAME = "build_axial_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return cfg


def retinanet() -> CfgNode:
    cfg = fpn_config()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_axial_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RETINANET.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[2 ** (n + 2)] for n in range(5)]
    return cfg


def mask_rcnn() -> CfgNode:
    cfg = fpn_config()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.MASK_ON = True
    levels = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.RPN.IN_FEATURES = [*levels, "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[2 ** (n + 3)] for n in range(5)]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 50
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = levels
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    return cfg


def faster_rcnn_c4() -> CfgNode:
    """Without a pyramid: one map at stride 16, and a convolutional res5 in the box head."""
    cfg = tiny_config(OUT_FEATURES=["res4"])
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 50
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32, 64]]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.NORM = "BN"
    return cfg


def semantic_segmentor() -> CfgNode:
    cfg = tiny_config(OUT_FEATURES=["res2", "res3", "res5"], OUTPUT_STRIDE=16)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "SemSegFPNHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    return cfg


CONFIGS: dict[str, Callable[[], CfgNode]] = {
    function.__name__: function
    for function in (retinanet, mask_rcnn, faster_rcnn_c4, semantic_segmentor)
}


def synthetic_inputs() -> list[dict]:
    """Two images of different sizes with two boxes, masks and a semantic map each."""
    generator = torch.Generator().manual_seed(1)
    inputs = []
    for height, width in ((64, 64), (57, 41)):
        instances = Instances((height, width))
        boxes = torch.tensor([[4.0, 6.0, 30.0, 34.0], [12.0, 20.0, 40.0, 50.0]])
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.tensor([0, 2])
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        sem_seg = torch.zeros(height, width, dtype=torch.long)
        for index, (x0, y0, x1, y1) in enumerate(boxes.long().tolist()):
            masks[index, y0:y1, x0:x1] = True
            sem_seg[y0:y1, x0:x1] = index + 1
        instances.gt_masks = BitMasks(masks)
        inputs.append(
            {
                "image": torch.rand(3, height, width, generator=generator) * 255,
                "instances": instances,
                "sem_seg": sem_seg,
                "height": height,
                "width": width,
            }
        )
    return inputs


@pytest.mark.parametrize("name", CONFIGS)
def test_builds_trains_and_predicts(name: str) -> None:
    model = build_model(CONFIGS[name]()).train()
    assert sum(isinstance(module, AxialResNet) for module in model.modules()) == 1
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs, totals = synthetic_inputs(), []
    with EventStorage():
        for _ in range(STEPS):
            total = sum(model(inputs).values())
            totals.append(total.item())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    assert all(map(math.isfinite, totals))
    assert len(set(totals)) == STEPS
    attention = [p for n, p in model.named_parameters() if n.endswith("query_table")]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attention)

    with torch.no_grad():
        predictions = model.eval()(inputs)
    for prediction, given in zip(predictions, inputs, strict=True):
        if name == "semantic_segmentor":
            assert prediction["sem_seg"].shape == (NUM_CLASSES, given["height"], given["width"])
        else:
            assert prediction["instances"].image_size == (given["height"], given["width"])


@pytest.mark.parametrize(
    ("builder", "in_features", "levels"),
    [
        ("build_axial_resnet_fpn_backbone", ["res2", "res3", "res4", "res5"], range(2, 7)),
        ("build_axial_resnet_fpn_backbone", ["res3", "res4", "res5"], range(3, 7)),
        ("build_retinanet_axial_resnet_fpn_backbone", ["res3", "res4", "res5"], range(3, 8)),
    ],
)
@pytest.mark.parametrize("stem", ["conv7", "deeplab", "inception", "axial"])
def test_pyramid_levels(builder: str, in_features: list[str], levels: range, stem: str) -> None:
    cfg = fpn_config(STEM=stem)
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.FPN.IN_FEATURES = in_features
    assert builder in BACKBONE_REGISTRY
    backbone = build_backbone(cfg).eval()
    assert isinstance(backbone, FPN)
    assert backbone.size_divisibility == 32
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 96))
    assert list(features) == [f"p{level}" for level in levels]
    for level, feature in zip(levels, features.values(), strict=True):
        assert feature.shape == (1, 16, ceil_div(64, 2**level), ceil_div(96, 2**level))
        assert backbone.output_shape()[f"p{level}"].stride == 2**level


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    "builder", ["build_axial_resnet_fpn_backbone", "build_retinanet_axial_resnet_fpn_backbone"]
)
def test_pyramid_needs_output_stride_32(builder: str, output_stride: int) -> None:
    cfg = fpn_config(OUTPUT_STRIDE=output_stride)
    cfg.MODEL.BACKBONE.NAME = builder
    message = rf"MODEL\.AXIAL_RESNET\.OUTPUT_STRIDE is {output_stride}; .* set it to 32"
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)


@pytest.mark.parametrize("in_features", [[], ["res2", "res6"]])
def test_pyramid_needs_features_the_backbone_returns(in_features: list[str]) -> None:
    cfg = fpn_config()
    cfg.MODEL.FPN.IN_FEATURES = in_features
    with pytest.raises(ValueError, match=r"MODEL\.FPN\.IN_FEATURES") as error:
        build_backbone(cfg)
    for part in (str(in_features), "MODEL.AXIAL_RESNET.OUT_FEATURES", "res5"):
        assert part in str(error.value)


def test_pyramid_needs_neighbouring_features() -> None:
    """Levels of a pyramid are twice as coarse as the one before; res2 and res4 are not."""
    cfg = fpn_config()
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res4", "res5"]
    with pytest.raises(ValueError, match=r"MODEL\.FPN\.IN_FEATURES"):
        build_backbone(cfg)


def test_retinanet_needs_res5() -> None:
    """p6 comes from it."""
    cfg = fpn_config()
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_axial_resnet_fpn_backbone"
    cfg.MODEL.AXIAL_RESNET.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4"]
    with pytest.raises(ValueError, match=r"OUT_FEATURES.*res5|res5.*OUT_FEATURES"):
        build_backbone(cfg)


def test_frozen_stages_under_a_pyramid() -> None:
    cfg = fpn_config()
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    bottom_up = build_backbone(cfg).bottom_up
    trainable = {n.split(".")[0] for n, p in bottom_up.named_parameters() if p.requires_grad}
    assert trainable == {"res3", "res4", "res5"}
