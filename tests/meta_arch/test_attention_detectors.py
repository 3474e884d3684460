"""Detectors on pyramids of attention: they train, and what they predict at any image size."""

from __future__ import annotations

import math

import pytest
import torch
from axial_d2 import add_axial_deeplab_config
from axial_d2.heads import AttentionRetinaNetHead
from axial_d2.layers import LocalAttention
from axial_d2.meta_arch import AttentionRetinaNet
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

NUM_CLASSES = 3
BACKBONES = ("axial_resnet", "local_attention_resnet", "resnet")
STEPS = 2


def config(architecture: str, backbone: str = "local_attention_resnet") -> CfgNode:
    cfg = get_cfg()
    add_axial_deeplab_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    for node in (cfg.MODEL.AXIAL_RESNET, cfg.MODEL.LOCAL_ATTENTION_RESNET):
        node.DEPTH = 26
        node.WIDTH_MULTIPLIER = 0.125
        node.NUM_HEADS = 4
        node.OUTPUT_STRIDE = 32
        node.NORM = "BN"
        node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.LOCAL_ATTENTION_RESNET.SPAN = 3
    cfg.MODEL.AXIAL_RESNET.MAX_SPAN = 17
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.FPN.NORM = "BN"
    for node in (cfg.MODEL.FPN.ATTENTION, cfg.MODEL.RETINANET.ATTENTION):
        node.NUM_HEADS = 2
        node.SPAN = 3
    (_rcnn if architecture == "GeneralizedRCNN" else _retinanet)(cfg, architecture, backbone)
    return cfg


def _retinanet(cfg: CfgNode, architecture: str, backbone: str) -> None:
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.BACKBONE.NAME = f"build_retinanet_{backbone}_attention_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.TOP_INPUT = "p5"
    cfg.MODEL.RETINANET.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    cfg.MODEL.RETINANET.NORM = "BN"
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RETINANET.TOPK_CANDIDATES_TEST = 20
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[2 ** (n + 2)] for n in range(5)]


def _rcnn(cfg: CfgNode, architecture: str, backbone: str) -> None:
    levels = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.BACKBONE.NAME = f"build_{backbone}_attention_fpn_backbone"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RPN.IN_FEATURES = [*levels, "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[2 ** (n + 3)] for n in range(5)]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
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


def image(height: int, width: int, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(3, height, width, generator=generator) * 255
    return {"image": pixels, "height": height, "width": width}


def training_images() -> list[dict]:
    """Two sizes that no stride divides, with two boxes and masks each."""
    inputs = []
    for height, width in ((50, 45), (37, 41)):
        instances = Instances((height, width))
        boxes = [[4.0, 6.0, 30.0, 34.0], [12.0, 20.0, 40.0, 36.0]]
        instances.gt_boxes = Boxes(torch.tensor(boxes))
        instances.gt_classes = torch.tensor([0, 2])
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 6:34, 4:30] = masks[1, 20:36, 12:40] = True
        instances.gt_masks = BitMasks(masks)
        inputs.append({**image(height, width), "instances": instances})
    return inputs


def speaking(model: nn.Module) -> nn.Module:
    """In evaluation mode, with residual branches that contribute and boxes that differ."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.ones_(parameter)
        elif "pointwise.weight" in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval()


def logits_and_deltas(model: nn.Module, inputs: list[dict]) -> list[Tensor]:
    """What boxes are made from, [B, …] a level, in float64.

    Which boxes stay, a rounding error can decide; and of a random model's large logits, much else.
    """
    features = model.backbone(model.preprocess_image(inputs).tensor)
    logits, deltas = model.head([features[name] for name in model.head_in_features])
    return [*logits, *deltas]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("architecture", ["AttentionRetinaNet", "RetinaNet", "GeneralizedRCNN"])
def test_trains_and_predicts(architecture: str, backbone: str) -> None:
    model = build_model(config(architecture, backbone)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs, totals = training_images(), []
    with EventStorage():
        for _ in range(STEPS):
            total = sum(model(inputs).values())
            totals.append(total.item())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    assert all(map(math.isfinite, totals))
    assert len(set(totals)) == STEPS
    attention = {n: m for n, m in model.named_modules() if isinstance(m, LocalAttention)}
    assert attention
    for name, layer in attention.items():
        assert layer.qkv.weight.grad.any(), name
        # p7 comes from a map of one pixel, which has no other row to tell from its own.
        assert name.endswith("top_block.p7") or layer.query_window.row_table.grad.any(), name
    with torch.no_grad():
        predictions = model.eval()(inputs)
    for prediction, given in zip(predictions, inputs, strict=True):
        assert prediction["instances"].image_size == (given["height"], given["width"])


def test_only_the_head_differs_from_detectron2s() -> None:
    assert META_ARCH_REGISTRY.get("AttentionRetinaNet") is AttentionRetinaNet
    ours = build_model(config("AttentionRetinaNet"))
    theirs = build_model(config("RetinaNet"))
    assert type(theirs) is RetinaNet
    assert isinstance(ours.head, AttentionRetinaNetHead)
    names = [{n for n in m.state_dict() if not n.startswith("head.")} for m in (ours, theirs)]
    assert names[0] == names[1]
    speaking(ours).double()
    batch = [image(40, 40), image(40, 40, seed=1)]
    alone = zip(*(logits_and_deltas(ours, [each]) for each in batch), strict=True)
    for together, each in zip(logits_and_deltas(ours, batch), alone, strict=True):
        torch.testing.assert_close(together, torch.cat(each), atol=1e-6, rtol=1e-9)


@torch.no_grad()
def test_companions_in_a_batch_change_nothing() -> None:
    """A smaller image would be padded to the larger one's size, and its attention would see it."""
    model = speaking(build_model(config("AttentionRetinaNet")))
    images = [image(33, 47), image(97, 131, seed=1), image(33, 47, seed=2)]
    together = model(images)
    assert len(together) == len(images)
    for given, prediction in zip(images, together, strict=True):
        alone = model([given])[0]["instances"]
        assert len(alone)
        for field in ("scores", "pred_classes"):
            assert torch.equal(prediction["instances"].get(field), alone.get(field))
        assert torch.equal(prediction["instances"].pred_boxes.tensor, alone.pred_boxes.tensor)


@torch.no_grad()
@pytest.mark.parametrize("size", [(97, 131), (64, 64), (33, 65)])
def test_implementations_agree_at_any_size(size: tuple[int, int]) -> None:
    """The fast one against the definition, on every level and for every box."""
    model = speaking(build_model(config("AttentionRetinaNet"))).double()
    fast = logits_and_deltas(model, [image(*size)])
    levels = model.backbone(torch.ones(1, 3, *size, dtype=torch.float64))
    for module in model.modules():
        if isinstance(module, LocalAttention):
            module.implementation = "reference"
    slow = logits_and_deltas(model, [image(*size)])
    for name, level in model.backbone(torch.ones(1, 3, *size, dtype=torch.float64)).items():
        torch.testing.assert_close(levels[name], level, atol=1e-6, rtol=1e-9)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-9)


@torch.no_grad()
def test_an_image_is_not_padded() -> None:
    """What lies beyond it is nowhere: the maps are those of its own pixels, and stay in place."""
    model = speaking(build_model(config("AttentionRetinaNet")))
    images = model.preprocess_image([image(97, 131)])
    assert images.tensor.shape[2:] == (97, 131)
    sizes = [tuple(each.shape[2:]) for each in model.backbone(images.tensor).values()]
    assert sizes == [(13, 17), (7, 9), (4, 5), (2, 3), (1, 2)]


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["AttentionRetinaNet", "RetinaNet", "GeneralizedRCNN"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (31, 33)])
def test_any_size_from_one_pixel(architecture: str, size: tuple[int, int]) -> None:
    model = build_model(config(architecture)).eval()
    instances = model([image(*size)])[0]["instances"]
    assert instances.image_size == size
    assert instances.pred_boxes.tensor.isfinite().all()
