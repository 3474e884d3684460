"""ResNets of stand-alone self-attention on 2-D windows (SASA, arXiv 1906.05909)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from axial_d2.backbone.attention_resnet import AttentionResNet
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY


class LocalAttentionResNet(AttentionResNet):
    """ResNet whose 3×3 convolutions are attention on a 2-D window.

    Args:
        depth: default 50; SASA also has 26 and 38.
        width_multiplier: default 1.0.
        stem: default "conv7", SASA's "conv stem"; "attention" makes the full-attention model.
        stem_width_multiplier: default None, the width's.
        striding: default "avg_pool", straight after the attention.
        stage_types: default all "local"; "local_ps" for position-sensitive attention.
        num_heads: default 8.
        span: side of the window, default 7.
        others: see :class:`.AttentionResNet`.

    Raises:
        ValueError: see :class:`.AttentionResNet`.
    """

    config_node = "MODEL.LOCAL_ATTENTION_RESNET"

    @configurable
    def __init__(
        self,
        *,
        depth: int = 50,
        width_multiplier: float = 1.0,
        stem: str = "conv7",
        stem_width_multiplier: float | None = None,
        striding: str = "avg_pool",
        stage_types: Sequence[str] = ("local",) * 4,
        num_heads: int = 8,
        span: int = 7,
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
def build_local_attention_resnet_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> LocalAttentionResNet:
    """A :class:`LocalAttentionResNet` from ``cfg.MODEL.LOCAL_ATTENTION_RESNET``."""
    return LocalAttentionResNet(cfg, input_shape)
