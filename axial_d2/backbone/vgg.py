"""VGG-16 as DeepLab-LargeFOV: fully convolutional, dilated, at output stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from axial_d2.backbone.stages import scale_channels
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

# Convolutions, channels, stride of the pool behind them, dilation.
STAGES = ((2, 64, 2, 1), (2, 128, 2, 1), (3, 256, 2, 1), (3, 512, 1, 1), (3, 512, 1, 2))
CLASSIFIER_CHANNELS = 1024
CLASSIFIER_DILATION = 12


class VGG16LargeFOV(Backbone):
    """DeepLab-LargeFOV's VGG-16 up to fc7, the features in front of its classifier.

    [B, C, H, W], any H and W → a dict of feature maps: "conv1" … "conv5", each after its 3×3
    max-pool, at strides 2, 4, 8, 8 and 8, and "fc7" at stride 8. The last two pools keep the
    resolution, conv5 has dilation 2; fc6 is a 3×3 convolution with dilation 12 and fc7 a 1×1 one,
    both of 1024 channels and with dropout in training.

    Args:
        out_features: names of the maps to return; default fc7.
        width_multiplier: of every channel, rounded to multiples of 16; default 1.
        norm: behind every convolution; default "", none, as in the paper.
        dropout: behind fc6 and fc7: 0 to below 1, default 0.5.
        in_channels: of the image.

    Raises:
        ValueError: an unknown feature, or a width or dropout out of range.
    """

    @configurable
    def __init__(
        self,
        *,
        out_features: Sequence[str] = ("fc7",),
        width_multiplier: float = 1.0,
        norm: str = "",
        dropout: float = 0.5,
        in_channels: int = 3,
    ):
        super().__init__()
        _check(out_features, width_multiplier, dropout)
        self._out_features = list(out_features)
        self._out_feature_strides: dict[str, int] = {}
        self._out_feature_channels: dict[str, int] = {}
        channels, stride = in_channels, 1
        for index, (count, width, pool_stride, dilation) in enumerate(STAGES, start=1):
            width = scale_channels(width, width_multiplier)
            stage = nn.Sequential()
            for number in range(1, count + 1):
                conv = _convolution(channels, width, 3, dilation, norm)
                stage.add_module(f"conv{index}_{number}", conv)
                channels = width
            stage.add_module("pool", nn.MaxPool2d(3, stride=pool_stride, padding=1))
            self.add_module(f"conv{index}", stage)
            stride *= pool_stride
            self._describe(f"conv{index}", stride, channels)
        width = scale_channels(CLASSIFIER_CHANNELS, width_multiplier)
        self.fc6 = _convolution(channels, width, 3, CLASSIFIER_DILATION, norm)
        self.fc7 = _convolution(width, width, 1, 1, norm)
        self.dropout = nn.Dropout(dropout)
        self._describe("fc7", stride, width)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        node = cfg.MODEL.VGG16_LARGEFOV
        return {
            "out_features": node.OUT_FEATURES,
            "width_multiplier": node.WIDTH_MULTIPLIER,
            "norm": node.NORM,
            "dropout": node.DROPOUT,
            "in_channels": input_shape.channels,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = {}
        for index in range(1, len(STAGES) + 1):
            x = features[f"conv{index}"] = getattr(self, f"conv{index}")(x)
        if "fc7" in self._out_features:
            features["fc7"] = self.dropout(self.fc7(self.dropout(self.fc6(x))))
        return {name: features[name] for name in self._out_features}

    def _describe(self, name: str, stride: int, channels: int) -> None:
        self._out_feature_strides[name] = stride
        self._out_feature_channels[name] = channels


@BACKBONE_REGISTRY.register()
def build_vgg16_largefov_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> VGG16LargeFOV:
    """A :class:`VGG16LargeFOV` from ``cfg.MODEL.VGG16_LARGEFOV``."""
    return VGG16LargeFOV(cfg, input_shape)


def _check(out_features: Sequence[str], width_multiplier: float, dropout: float) -> None:
    known = (*(f"conv{index}" for index in range(1, len(STAGES) + 1)), "fc7")
    if not out_features or any(name not in known for name in out_features):
        raise ValueError(
            f"MODEL.VGG16_LARGEFOV.OUT_FEATURES {list(out_features)} must name one or more of "
            f"{known}, and nothing else."
        )
    if width_multiplier <= 0:
        raise ValueError(
            f"MODEL.VGG16_LARGEFOV.WIDTH_MULTIPLIER is {width_multiplier}; it must be above 0."
        )
    if not 0 <= dropout < 1:
        raise ValueError(
            f"MODEL.VGG16_LARGEFOV.DROPOUT is {dropout}; it must be from 0 to below 1."
        )


def _convolution(
    in_channels: int, out_channels: int, kernel_size: int, dilation: int, norm: str
) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv
