"""RetinaNet's head with attention instead of 3×3 convolutions (SASA, arXiv 1906.05909, 4.2)."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from axial_d2.layers import LocalAttention
from axial_d2.layers.local_attention import check_local_attention
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, CycleBatchNormList, ShapeSpec, get_norm
from detectron2.modeling.anchor_generator import build_anchor_generator
from torch import Tensor, nn

# With statistics for each level, as in Detectron2's RetinaNetHead.
NORM_OF_A_LEVEL = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}


class AttentionRetinaNetHead(nn.Module):
    """Classes and boxes of every anchor, from two branches of local attention.

    A branch is ``num_layers`` times attention, norm (if any), ReLU; then, in place of the 3×3
    convolution that predicts, attention again and a 1×1 convolution. All levels share every layer,
    but for the statistics of batch norms. The paper has a pointwise convolution at the end of each
    branch; that the layer which predicts is attention, too, is concluded from its parameters and
    FLOPs (docs/fidelity.md), ReLU in between from the convolutional head, and no norm or ReLU in
    front of the 1×1 convolution is a choice.

    Shape: a list of maps [B, C, H, W], one a level, fine to coarse, any H and W → two lists of as
    many maps, [B, A·K, H, W] of class logits and [B, A·4, H, W] of box deltas (dx, dy, dw, dh),
    for A anchors a position and K classes.

    Args:
        input_shape: of each level; all have the same channels (SASA: 256), which every layer has.
        num_classes: K.
        num_anchors: A.
        num_layers: of a branch in front of the one that predicts, 0 or more; SASA: 4.
        norm: behind those layers, any that Detectron2 knows; default none. "BN" and "SyncBN"
            have statistics of their own on each level.
        prior_prob: of an object, which the class logits start at; default 0.01.
        num_heads, span, implementation: of :class:`.LocalAttention`, default SASA's 8 and 7.

    Raises:
        ValueError: levels of unequal channels, a negative ``num_layers``, a ``prior_prob``
            outside (0, 1), what :class:`.LocalAttention` refuses; at a call, another number of
            levels.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes: int,
        num_anchors: int,
        num_layers: int = 4,
        norm: str = "",
        prior_prob: float = 0.01,
        num_heads: int = 8,
        span: int = 7,
        implementation: str = "auto",
    ):
        super().__init__()
        channels = _common_channels(input_shape)
        _check(num_layers, prior_prob)
        self.num_levels = len(input_shape)
        options: dict[str, Any] = {
            "num_heads": num_heads,
            "span": span,
            "implementation": implementation,
        }

        def branch() -> nn.Sequential:
            layers: list[nn.Module] = []
            for _ in range(num_layers):
                layers.append(LocalAttention(channels, channels, **options))
                if norm:
                    layers.append(_norm(norm, channels, self.num_levels))
                layers.append(nn.ReLU())
            return nn.Sequential(*layers)

        def prediction(outputs: int, bias: float = 0.0) -> nn.Sequential:
            pointwise = Conv2d(channels, outputs, kernel_size=1)
            nn.init.normal_(pointwise.weight, std=0.01)
            nn.init.constant_(pointwise.bias, bias)
            attention = LocalAttention(channels, channels, **options)
            layers: dict[str, nn.Module] = {"attention": attention, "pointwise": pointwise}
            return nn.Sequential(OrderedDict(layers))

        self.cls_subnet = branch()
        self.bbox_subnet = branch()
        prior_logit = math.log(prior_prob / (1 - prior_prob))
        self.cls_score = prediction(num_anchors * num_classes, prior_logit)
        self.bbox_pred = prediction(num_anchors * 4)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        node, where = cfg.MODEL.RETINANET.ATTENTION, "MODEL.RETINANET.ATTENTION"
        channels = _common_channels(input_shape)
        check_local_attention(node, channels, where, "MODEL.FPN.OUT_CHANNELS")
        anchors = build_anchor_generator(cfg, input_shape).num_cell_anchors
        if len(set(anchors)) > 1:
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR gives {anchors} anchors a position to the levels of "
                "MODEL.RETINANET.IN_FEATURES; the head is shared by the levels, so let every "
                "level have as many SIZES and ASPECT_RATIOS."
            )
        return {
            "input_shape": input_shape,
            "num_classes": cfg.MODEL.RETINANET.NUM_CLASSES,
            "num_anchors": anchors[0],
            "num_layers": cfg.MODEL.RETINANET.NUM_CONVS,
            "norm": cfg.MODEL.RETINANET.NORM,
            "prior_prob": cfg.MODEL.RETINANET.PRIOR_PROB,
            "num_heads": node.NUM_HEADS,
            "span": node.SPAN,
            "implementation": node.IMPL,
        }

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        if len(features) != self.num_levels:
            raise ValueError(
                f"the head got {len(features)} levels; it was built for {self.num_levels}."
            )
        logits = [self.cls_score(self.cls_subnet(feature)) for feature in features]
        deltas = [self.bbox_pred(self.bbox_subnet(feature)) for feature in features]
        return logits, deltas


def _common_channels(input_shape: list[ShapeSpec]) -> int:
    channels = {shape.channels for shape in input_shape}
    if len(channels) != 1:
        raise ValueError(
            f"the levels have {sorted(map(str, channels))} channels; one head for all of them "
            "needs levels of the same number, as a feature pyramid gives."
        )
    return channels.pop()


def _check(num_layers: int, prior_prob: float) -> None:
    if num_layers < 0:
        raise ValueError(f"MODEL.RETINANET.NUM_CONVS is {num_layers}; it must be 0 or more.")
    if not 0 < prior_prob < 1:
        raise ValueError(
            f"MODEL.RETINANET.PRIOR_PROB is {prior_prob}; it must be between 0 and 1, neither of "
            "them included."
        )


def _norm(norm: str, channels: int, num_levels: int) -> nn.Module:
    if norm in NORM_OF_A_LEVEL:
        return CycleBatchNormList(num_levels, NORM_OF_A_LEVEL[norm], num_features=channels)
    return get_norm(norm, channels)
