"""Detectron2's RetinaNet with a head of attention."""

from __future__ import annotations

from typing import Any

from axial_d2.heads import AttentionRetinaNetHead
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import RetinaNet


@META_ARCH_REGISTRY.register()
class AttentionRetinaNet(RetinaNet):
    """RetinaNet whose head is an :class:`.AttentionRetinaNetHead` (SASA, arXiv 1906.05909, 4.2).

    All else is Detectron2's. In inference, images of different sizes are computed one by one: in
    a batch the smaller ones would be padded, and attention would see the padding.

    Args, inputs and outputs: of Detectron2's RetinaNet.

    Raises:
        ValueError: what :class:`.AttentionRetinaNetHead` refuses.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        arguments = super().from_config(cfg)
        shapes = arguments["backbone"].output_shape()
        levels = [shapes[name] for name in cfg.MODEL.RETINANET.IN_FEATURES]
        return {**arguments, "head": AttentionRetinaNetHead(cfg, levels)}

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        sizes = {tuple(each["image"].shape[-2:]) for each in batched_inputs}
        if self.training or len(sizes) <= 1:
            return super().forward(batched_inputs)
        return [super(AttentionRetinaNet, self).forward([each])[0] for each in batched_inputs]
