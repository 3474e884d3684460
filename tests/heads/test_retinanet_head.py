"""RetinaNet's head of attention: against one written out, shared over levels, and its errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from axial_d2 import add_axial_deeplab_config
from axial_d2.heads import AttentionRetinaNetHead
from axial_d2.layers import LocalAttention
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

CHANNELS, CLASSES, ANCHORS = 16, 3, 2
LEVELS = [ShapeSpec(channels=CHANNELS, stride=stride) for stride in (8, 16, 32)]
SIZES = [(9, 5), (5, 3), (1, 1)]


def head(**options: Any) -> AttentionRetinaNetHead:
    torch.manual_seed(0)
    arguments = {
        "input_shape": LEVELS,
        "num_classes": CLASSES,
        "num_anchors": ANCHORS,
        "num_layers": 2,
        "num_heads": 2,
        "span": 3,
    }
    return AttentionRetinaNetHead(**{**arguments, **options})


def maps(batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, CHANNELS, *size, generator=generator) for size in SIZES]


def attend(layer: LocalAttention, x: Tensor) -> Tensor:
    """SASA's eq. 2 and 3, one query at a time."""
    query, key, value = (
        part.unflatten(1, (layer.num_heads, -1)) for part in layer.qkv(x).chunk(3, 1)
    )
    table = layer.query_window()
    reach = layer.span // 2
    height, width = x.shape[2:]
    out = torch.empty_like(value)
    for row in range(height):
        for column in range(width):
            q = query[..., row, column]
            rows = range(max(0, row - reach), min(height, row + reach + 1))
            columns = range(max(0, column - reach), min(width, column + reach + 1))
            places = [(r, c) for r in rows for c in columns]
            logits = torch.stack(
                [
                    (q * (key[..., r, c] + table[r - row + reach, c - column + reach])).sum(2)
                    for r, c in places
                ],
                2,
            )
            weights = logits.softmax(2)
            values = torch.stack([value[..., r, c] for r, c in places], 3)
            out[..., row, column] = (values * weights[:, :, None]).sum(3)
    return out.flatten(1, 2)


@torch.no_grad()
def test_head_is_its_layers_one_after_the_other() -> None:
    module = head()
    logits, deltas = module(maps())
    for level, got_logits, got_deltas in zip(maps(), logits, deltas, strict=True):
        for subnet, predict, got in (
            (module.cls_subnet, module.cls_score, got_logits),
            (module.bbox_subnet, module.bbox_pred, got_deltas),
        ):
            x = level
            for layer in (subnet[0], subnet[2]):
                x = attend(layer, x).clamp(min=0)
            x = attend(predict.attention, x)
            weight, bias = predict.pointwise.weight[:, :, 0, 0], predict.pointwise.bias
            want = torch.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None]
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    assert [tuple(each.shape) for each in logits] == [(2, ANCHORS * CLASSES, *s) for s in SIZES]
    assert [tuple(each.shape) for each in deltas] == [(2, ANCHORS * 4, *s) for s in SIZES]


@pytest.mark.parametrize("norm", ["", "GN", "BN"])
def test_levels_share_every_weight(norm: str) -> None:
    """The same map on every level gives the same output, however many levels there are."""
    channels = 32 if norm == "GN" else CHANNELS
    shapes = [ShapeSpec(channels=channels)] * 3
    module = head(input_shape=shapes, norm=norm).eval()
    one = torch.randn(1, channels, 5, 4)
    logits, deltas = module([one, one, one])
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(deltas[0], deltas[2])
    alone = sum(p.numel() for p in head(input_shape=shapes[:1], norm=norm).parameters())
    assert sum(p.numel() for p in module.parameters()) == alone
    if norm == "BN":
        # Each level trains its own statistics.
        module.train()([one, 2 * one + 1, one])
        first, second, third = module.cls_subnet[1]
        assert not torch.equal(first.running_mean, second.running_mean)
        assert torch.equal(first.running_mean, third.running_mean)


@torch.no_grad()
def test_every_probability_starts_at_the_prior() -> None:
    module = head(prior_prob=0.02)
    logits, deltas = module([torch.zeros(1, CHANNELS, 4, 4)] * 3)
    torch.testing.assert_close(logits[0].sigmoid(), torch.full_like(logits[0], 0.02))
    assert not deltas[0].any()
    assert module.cls_score.pointwise.bias[0].item() == pytest.approx(math.log(0.02 / 0.98))


def config(**keys: object) -> CfgNode:
    """Keys under ``MODEL.RETINANET.ATTENTION``."""
    cfg = get_cfg()
    add_axial_deeplab_config(cfg)
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 24]]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]]
    cfg.MODEL.RETINANET.ATTENTION.NUM_HEADS = 2
    for key, value in keys.items():
        cfg.MODEL.RETINANET.ATTENTION[key] = value
    return cfg


def test_config_keys() -> None:
    cfg = config(SPAN=5, IMPL="reference")
    cfg.MODEL.RETINANET.NUM_CONVS = 3
    cfg.MODEL.RETINANET.NUM_CLASSES = 7
    cfg.MODEL.RETINANET.NORM = "BN"
    module = AttentionRetinaNetHead(cfg, LEVELS)
    attentions = [m for m in module.modules() if isinstance(m, LocalAttention)]
    assert len(attentions) == 2 * (3 + 1)
    assert {(m.num_heads, m.span, m.implementation) for m in attentions} == {(2, 5, "reference")}
    assert module.cls_score.pointwise.out_channels == 2 * 7
    assert sum(isinstance(m, nn.BatchNorm2d) for m in module.modules()) == 2 * 3 * len(LEVELS)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"NUM_HEADS": 3}, r"MODEL\.RETINANET\.ATTENTION\.NUM_HEADS is 3.*16 channels"),
        ({"SPAN": 0}, r"MODEL\.RETINANET\.ATTENTION\.SPAN 0 is even"),
        ({"IMPL": "fast"}, r"MODEL\.RETINANET\.ATTENTION\.IMPL is 'fast'"),
    ],
)
def test_errors_name_the_key(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionRetinaNetHead(config(**keys), LEVELS)


def test_levels_that_cannot_share_a_head() -> None:
    unequal = [*LEVELS[:2], ShapeSpec(channels=8, stride=32)]
    with pytest.raises(ValueError, match=r"\['16', '8'\] channels"):
        head(input_shape=unequal)
    cfg = config()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 24], [32], [64]]
    with pytest.raises(ValueError, match=r"gives \[2, 1, 1\] anchors"):
        AttentionRetinaNetHead(cfg, LEVELS)
    with pytest.raises(ValueError, match="got 2 levels; it was built for 3"):
        head()(maps()[:2])


@pytest.mark.parametrize(
    ("options", "key"), [({"num_layers": -1}, "NUM_CONVS"), ({"prior_prob": 1.0}, "PRIOR_PROB")]
)
def test_values_out_of_range(options: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        head(**options)
