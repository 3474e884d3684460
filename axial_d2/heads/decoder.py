"""Panoptic-DeepLab's decoder without its obligatory ASPP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ASPP, Conv2d, DepthwiseSeparableConv2d, ShapeSpec, get_norm
from detectron2.projects.deeplab import DeepLabV3PlusHead
from torch import Tensor, nn

DECODER_INPUT_CHOICES = ("none", "projection", "aspp")


class AxialDeepLabDecoder(DeepLabV3PlusHead):
    """The decoder of Detectron2's DeepLabV3+ head, with a choice of what it starts from.

    Detectron2's constructor always builds an ASPP. Axial-DeepLab needs none, since attention
    already sees the whole image; its decoders start from res5 itself. Stands between
    Detectron2's Panoptic-DeepLab heads and their base class in the order of inheritance, so that
    head, predictor and losses stay Detectron2's.

    Args:
        input_shape: of the features to use, by name.
        project_channels: of the low-level features' 1×1 projections, by increasing stride.
        decoder_channels: of each stage's output, by increasing stride; the last is the number
            of channels of the projection or ASPP.
        common_stride: stride of the output.
        norm: of every convolution.
        decoder_input: "none" (default), "projection" (1×1 conv, norm, ReLU) or "aspp", whose
            image-level pooling covers the whole image, so that any size works.
        align_corners: whether resizes map corner pixels onto corner pixels, as DeepLab2 does on
            sizes of a multiple of the stride plus one; default False, as in Detectron2.
        aspp_dilations, aspp_dropout, use_depthwise_separable_conv, loss_weight, loss_type,
        ignore_value: as in Detectron2.

    Raises:
        ValueError: an unknown ``decoder_input``, missing features, or channel lists whose length
            does not match them.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        project_channels: Sequence[int],
        decoder_channels: Sequence[int],
        common_stride: int,
        norm: str,
        decoder_input: str = "none",
        align_corners: bool = False,
        aspp_dilations: Sequence[int] = (6, 12, 18),
        aspp_dropout: float = 0.1,
        use_depthwise_separable_conv: bool = True,
        loss_weight: float = 1.0,
        loss_type: str = "hard_pixel_mining",
        ignore_value: int = -1,
    ):
        nn.Module.__init__(self)
        shapes = sorted(input_shape.items(), key=lambda item: item[1].stride)
        _check_lengths([name for name, _ in shapes], project_channels, decoder_channels)
        self.in_features = [name for name, _ in shapes]
        self.common_stride = common_stride
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.loss_type = loss_type
        self.decoder_only = True
        self.align_corners = align_corners
        self.use_depthwise_separable_conv = use_depthwise_separable_conv

        *low_level, (top_name, top) = shapes
        top_stage = nn.ModuleDict()
        top_stage["project_conv"], channels = self._decoder_input(
            decoder_input, top, decoder_channels[-1], norm, aspp_dilations, aspp_dropout
        )
        top_stage.register_module("fuse_conv", None)
        stages = {top_name: top_stage}
        for index in reversed(range(len(low_level))):
            name, shape = low_level[index]
            projected, fused = project_channels[index], decoder_channels[index]
            stage = nn.ModuleDict()
            stage["project_conv"] = _convolution(shape.channels, projected, 1, norm)
            stage["fuse_conv"] = self._fusion(projected + channels, fused, norm)
            stages[name], channels = stage, fused
        self.decoder = nn.ModuleDict({name: stages[name] for name in self.in_features})

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Features by name → [B, decoder_channels[0], h, w] at ``common_stride``."""
        stages: Any = self.decoder
        *low_level, top = self.in_features
        y = stages[top]["project_conv"](features[top])
        for name in reversed(low_level):
            projected = stages[name]["project_conv"](features[name])
            y = F.interpolate(
                y, projected.shape[-2:], mode="bilinear", align_corners=self.align_corners
            )
            y = stages[name]["fuse_conv"](torch.cat([projected, y], dim=1))
        return y

    def _decoder_input(
        self,
        kind: str,
        shape: ShapeSpec,
        channels: int,
        norm: str,
        dilations: Sequence[int],
        dropout: float,
    ) -> tuple[nn.Module, int]:
        if kind == "none":
            return nn.Identity(), shape.channels
        if kind == "projection":
            return _convolution(shape.channels, channels, 1, norm), channels
        if kind != "aspp":
            raise ValueError(
                f"DECODER_INPUT {kind!r} is unknown; choose one of {DECODER_INPUT_CHOICES}."
            )
        aspp = ASPP(
            shape.channels,
            channels,
            list(dilations),
            norm=norm,
            activation=F.relu,
            dropout=dropout,
            use_depthwise_separable_conv=self.use_depthwise_separable_conv,
        )
        return aspp, channels

    def _fusion(self, in_channels: int, out_channels: int, norm: str) -> nn.Module:
        if self.use_depthwise_separable_conv:
            return DepthwiseSeparableConv2d(
                in_channels,
                out_channels,
                kernel_size=5,
                padding=2,
                norm1=norm,
                activation1=F.relu,
                norm2=norm,
                activation2=F.relu,
            )
        return nn.Sequential(
            _convolution(in_channels, out_channels, 3, norm),
            _convolution(out_channels, out_channels, 3, norm),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        check_features("MODEL.SEM_SEG_HEAD", cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, input_shape)
        arguments = super().from_config(cfg, input_shape)
        arguments.pop("train_size")
        return {**arguments, **decoder_arguments(cfg, cfg.MODEL.SEM_SEG_HEAD)}


def decoder_arguments(cfg: CfgNode, node: CfgNode) -> dict:
    """What our heads take beyond Detectron2's arguments, from ``cfg`` and a head's own node."""
    return {
        "decoder_input": node.DECODER_INPUT,
        "align_corners": cfg.MODEL.PANOPTIC_DEEPLAB.ALIGN_CORNERS,
        "norm_eps": node.NORM_EPS,
        "norm_momentum": node.NORM_MOMENTUM,
    }


def check_features(node: str, wanted: Sequence[str], input_shape: dict[str, ShapeSpec]) -> None:
    """Raises ValueError unless the backbone provides every wanted feature."""
    missing = [name for name in wanted if name not in input_shape]
    if missing or not wanted:
        raise ValueError(
            f"{node}.IN_FEATURES {list(wanted)} must be some of the backbone's output features "
            f"{list(input_shape)}; change it, or MODEL.AXIAL_RESNET.OUT_FEATURES "
            f"(missing: {missing})."
        )


def _check_lengths(
    features: Sequence[str], project_channels: Sequence[int], decoder_channels: Sequence[int]
) -> None:
    if len(project_channels) != len(features) - 1 or len(decoder_channels) != len(features):
        raise ValueError(
            f"a decoder over the features {list(features)} needs {len(features) - 1} "
            f"PROJECT_CHANNELS, one for each but the last, and {len(features)} decoder channels; "
            f"given {list(project_channels)} and {list(decoder_channels)}."
        )


def _convolution(in_channels: int, out_channels: int, kernel_size: int, norm: str) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_xavier_fill(conv)
    return conv
