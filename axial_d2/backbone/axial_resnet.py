"""Axial-ResNet (Axial-DeepLab, sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from axial_d2.backbone.attention_resnet import AttentionResNet
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY


class AxialResNet(AttentionResNet):
    """Residual network whose 3×3 convolutions are axial attention.

    Args:
        depth: default 50.
        width_multiplier: 0.5 (default) is the paper's S, 0.75 M, 1.0 L, 2.0 XL.
        stem: default "deeplab".
        stem_width_multiplier: default None, the width's.
        striding: default "subsample".
        stage_types: default all "axial".
        num_heads: default 8.
        span: default 0, the whole axis.
        others: see :class:`.AttentionResNet`.

    Raises:
        ValueError: see :class:`.AttentionResNet`.
    """

    config_node = "MODEL.AXIAL_RESNET"

    @configurable
    def __init__(
        self,
        *,
        depth: int = 50,
        width_multiplier: float = 0.5,
        stem: str = "deeplab",
        stem_width_multiplier: float | None = None,
        striding: str = "subsample",
        stage_types: Sequence[str] = ("axial",) * 4,
        num_heads: int = 8,
        span: int = 0,
        **others: Any,
    ):
        super().__init__(
            depth=depth,
            width_multiplier=width_multiplier,
            stem=stem,
            stem_width_multiplier=stem_width_multiplier,
            striding=striding,
            stage_types=stage_types,
            num_heads=num_heads,
            span=span,
            **others,
        )


@BACKBONE_REGISTRY.register()
def build_axial_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> AxialResNet:
    """An :class:`AxialResNet` from ``cfg.MODEL.AXIAL_RESNET`` and ``MODEL.BACKBONE.FREEZE_AT``."""
    return AxialResNet(cfg, input_shape)
