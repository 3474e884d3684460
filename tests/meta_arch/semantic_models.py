"""Small semantic segmentors, made without a config."""

from __future__ import annotations

from typing import Any

import torch
from axial_d2.heads import LinearSemSegHead
from axial_d2.meta_arch import ScaleAttentionSegmentor, SlidingWindowSegmentor
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

CLASSES, STRIDE = 4, 4


class SmallBackbone(Backbone):
    """One strided convolution and one that sees far."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, STRIDE, STRIDE)
        self.body = nn.Conv2d(8, 12, 3, padding=1)
        self._out_features = ["res5"]
        self._out_feature_strides = {"res5": STRIDE}
        self._out_feature_channels = {"res5": 12}

    @property
    def size_divisibility(self) -> int:
        return STRIDE

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"res5": self.body(self.stem(x).tanh()).tanh()}


def parts() -> dict[str, Any]:
    """Backbone, head and pixel statistics, the same whenever the same seed is set before."""
    head = LinearSemSegHead(
        input_shape={"res5": ShapeSpec(channels=12, stride=STRIDE)}, num_classes=CLASSES
    )
    nn.init.normal_(head.predictor.weight)
    return {
        "backbone": SmallBackbone(),
        "sem_seg_head": head,
        "pixel_mean": [100.0, 110.0, 120.0],
        "pixel_std": [50.0, 51.0, 52.0],
    }


def plain(**options: Any) -> SlidingWindowSegmentor:
    return SlidingWindowSegmentor(**parts(), **options).eval()


def scales(**options: Any) -> ScaleAttentionSegmentor:
    return ScaleAttentionSegmentor(**parts(), attention_channels=6, **options).eval()


def with_weights_of(model: nn.Module, other: nn.Module) -> Any:
    """The model with those parameters of the other one that it has."""
    model.load_state_dict(other.state_dict(), strict=False)
    return model


def example(height: int, width: int) -> dict[str, Tensor]:
    return {
        "image": torch.randint(256, (3, height, width)).float(),
        "sem_seg": torch.randint(CLASSES, (height, width)),
    }
