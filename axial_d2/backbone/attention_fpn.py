"""Feature pyramids whose 3×3 convolutions are attention (SASA, arXiv 1906.05909, section 4.2)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from axial_d2.backbone.axial_resnet import AxialResNet
from axial_d2.backbone.fpn import BottomUp, build_bottom_up, fpn_arguments, top_input
from axial_d2.backbone.local_attention_resnet import LocalAttentionResNet
from axial_d2.layers import LocalAttention
from axial_d2.layers.local_attention import check_local_attention
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

#: What can be attention: the convolution behind each merged level, and p6 and p7 of a RetinaNet.
PARTS = ("output", "top")


class AttentionFPN(FPN):
    """Detectron2's FPN with attention behind each merged level, for images of any size.

    [B, C, H, W], any H and W → a dict of maps "p2", "p3" … of ``out_channels`` channels,
    ``ceil(H / stride)`` rows and ``ceil(W / stride)`` columns. A level is upsampled to twice its
    size and cut to that of the finer one, so that no image needs padding, which attention would
    see: ``size_divisibility`` is 0. The 1×1 lateral convolutions are Detectron2's.

    Args:
        bottom_up: any backbone, Detectron2's ResNet too, whose maps have ``ceil(H / stride)``
            rows.
        in_features: names of its maps, fine to coarse, each at twice the stride of the last.
        out_channels: of every level; the heads divide it. SASA: 256.
        norm: of lateral convolutions and attention, any that Detectron2 knows; default none.
        top_block: for coarser levels, such as :class:`AttentionP6P7`; default none.
        fuse_type: "sum" (default) or "avg".
        output_attention: False keeps the 3×3 convolutions behind the merged levels.
        num_heads, span, implementation: of :class:`.LocalAttention`, default SASA's 8 and 7.

    Raises:
        ValueError: what :class:`.LocalAttention` refuses.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        output_attention: bool = True,
        num_heads: int = 8,
        span: int = 7,
        implementation: str = "auto",
    ):
        super().__init__(
            bottom_up,
            in_features,
            out_channels,
            norm=norm,
            top_block=top_block,
            fuse_type=fuse_type,
        )
        self._size_divisibility = 0
        if output_attention:
            strides = [bottom_up.output_shape()[name].stride for name in in_features]
            names = [f"fpn_output{int(math.log2(stride))}" for stride in strides]
            for name in names:
                attention = LocalAttention(
                    out_channels,
                    out_channels,
                    num_heads=num_heads,
                    span=span,
                    implementation=implementation,
                )
                setattr(self, name, _normed(attention, norm, out_channels))
            # Coarse to fine, as Detectron2 keeps them.
            self.output_convs = [getattr(self, name) for name in reversed(names)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.bottom_up(x)
        merged: Tensor | None = None
        levels: list[Tensor] = []
        for name, lateral, output in zip(
            reversed(self.in_features), self.lateral_convs, self.output_convs, strict=True
        ):
            merged = self._merge(lateral(features[name]), merged)
            levels.insert(0, output(merged))
        if self.top_block is not None:
            candidates = {**dict(zip(self._out_features, levels, strict=False)), **features}
            levels += self.top_block(candidates[self.top_block.in_feature])
        return dict(zip(self._out_features, levels, strict=True))

    def _merge(self, lateral: Tensor, coarser: Tensor | None) -> Tensor:
        if coarser is None:
            return lateral
        height, width = lateral.shape[2:]
        upsampled = F.interpolate(coarser, scale_factor=2.0, mode="nearest")[..., :height, :width]
        merged = lateral + upsampled
        return merged / 2 if self._fuse_type == "avg" else merged


class AttentionP6P7(nn.Module):
    """p6 and p7 of a RetinaNet: attention, then a 2×2 average pool with stride 2; ReLU between.

    [B, in_channels, H, W] → [B, out_channels, ceil(H / 2), ceil(W / 2)] and the same of that: the
    sizes of the strided 3×3 convolutions that they replace. The border's pools average what
    exists.

    Args:
        in_channels: of the input.
        out_channels: of both levels.
        in_feature: name of the input, a feature of the backbone or a level of the pyramid.
        num_heads, span, implementation: of :class:`.LocalAttention`, default SASA's 8 and 7.

    Raises:
        ValueError: what :class:`.LocalAttention` refuses.
    """

    num_levels = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        in_feature: str = "p5",
        *,
        num_heads: int = 8,
        span: int = 7,
        implementation: str = "auto",
    ):
        super().__init__()
        self.in_feature = in_feature
        options: dict[str, Any] = {
            "num_heads": num_heads,
            "span": span,
            "implementation": implementation,
        }
        self.p6 = LocalAttention(in_channels, out_channels, **options)
        self.p7 = LocalAttention(out_channels, out_channels, **options)

    def forward(self, x: Tensor) -> list[Tensor]:
        p6 = _halve(self.p6(x))
        return [p6, _halve(self.p7(F.relu(p6)))]


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def _normed(attention: LocalAttention, norm: str, channels: int) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(attention=attention)
    if norm:
        parts["norm"] = get_norm(norm, channels)
    return nn.Sequential(parts)


def _build_pyramid(bottom_up: Backbone, cfg: CfgNode) -> AttentionFPN:
    """p2 … p6; without weights of its own, p6 has no attention."""
    return _build_fpn(bottom_up, cfg, LastLevelMaxPool())


def _build_retinanet_pyramid(bottom_up: Backbone, cfg: CfgNode, where: str) -> AttentionFPN:
    """p3 … p7."""
    feature, channels = top_input(bottom_up, cfg, where)
    out_channels = cfg.MODEL.FPN.OUT_CHANNELS
    top_block: nn.Module
    if "top" in cfg.MODEL.FPN.ATTENTION.PARTS:
        top_block = AttentionP6P7(channels, out_channels, feature, **_attention_arguments(cfg))
    else:
        top_block = LastLevelP6P7(channels, out_channels, feature)
    return _build_fpn(bottom_up, cfg, top_block)


def _build_fpn(bottom_up: Backbone, cfg: CfgNode, top_block: nn.Module) -> AttentionFPN:
    return AttentionFPN(
        bottom_up,
        top_block=top_block,
        output_attention="output" in cfg.MODEL.FPN.ATTENTION.PARTS,
        **_attention_arguments(cfg),
        **fpn_arguments(cfg),
    )


def _attention_arguments(cfg: CfgNode) -> dict[str, Any]:
    node, where = cfg.MODEL.FPN.ATTENTION, "MODEL.FPN.ATTENTION"
    unknown = [part for part in node.PARTS if part not in PARTS]
    if isinstance(node.PARTS, str) or unknown:
        raise ValueError(
            f"{where}.PARTS is {node.PARTS!r}; it must be a list of some of {PARTS}, or empty to "
            "keep every convolution."
        )
    check_local_attention(node, cfg.MODEL.FPN.OUT_CHANNELS, where, "MODEL.FPN.OUT_CHANNELS")
    return {"num_heads": node.NUM_HEADS, "span": node.SPAN, "implementation": node.IMPL}


def _attention_resnet(kind: BottomUp, cfg: CfgNode, input_shape: ShapeSpec) -> tuple[Backbone, str]:
    return build_bottom_up(kind, cfg, input_shape), f"{kind.config_node}.OUT_FEATURES"


@BACKBONE_REGISTRY.register()
def build_axial_resnet_attention_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> AttentionFPN:
    """p2 … p6 for Faster and Mask R-CNN, from ``MODEL.AXIAL_RESNET`` and ``MODEL.FPN``."""
    return _build_pyramid(build_bottom_up(AxialResNet, cfg, input_shape), cfg)


@BACKBONE_REGISTRY.register()
def build_retinanet_axial_resnet_attention_fpn_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> AttentionFPN:
    """p3 … p7 for RetinaNet, from ``MODEL.AXIAL_RESNET`` and ``MODEL.FPN``."""
    bottom_up, where = _attention_resnet(AxialResNet, cfg, input_shape)
    return _build_retinanet_pyramid(bottom_up, cfg, where)


@BACKBONE_REGISTRY.register()
def build_local_attention_resnet_attention_fpn_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> AttentionFPN:
    """p2 … p6 for Faster and Mask R-CNN, from ``MODEL.LOCAL_ATTENTION_RESNET``, ``MODEL.FPN``."""
    return _build_pyramid(build_bottom_up(LocalAttentionResNet, cfg, input_shape), cfg)


@BACKBONE_REGISTRY.register()
def build_retinanet_local_attention_resnet_attention_fpn_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> AttentionFPN:
    """p3 … p7 for RetinaNet, from ``MODEL.LOCAL_ATTENTION_RESNET`` and ``MODEL.FPN``."""
    bottom_up, where = _attention_resnet(LocalAttentionResNet, cfg, input_shape)
    return _build_retinanet_pyramid(bottom_up, cfg, where)


@BACKBONE_REGISTRY.register()
def build_resnet_attention_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> AttentionFPN:
    """p2 … p6 for Faster and Mask R-CNN on Detectron2's ResNet, from ``MODEL.RESNETS``."""
    return _build_pyramid(build_resnet_backbone(cfg, input_shape), cfg)


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_attention_fpn_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> AttentionFPN:
    """p3 … p7 for RetinaNet on Detectron2's ResNet, from ``MODEL.RESNETS``."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    return _build_retinanet_pyramid(bottom_up, cfg, "MODEL.RESNETS.OUT_FEATURES")
