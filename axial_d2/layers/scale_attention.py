"""Weights of several scales at every pixel (Attention to Scale, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn


class ScaleAttention(nn.Module):
    """How much each scale counts at each pixel, from the features of all scales.

    A 3×3 convolution with ReLU, a 1×1 convolution with one channel a scale, and a softmax over
    the scales. The 1×1 convolution starts at zero, so that all scales count alike.

    Shape: for each scale [B, in_channels, h, w], all of one size → weights [B, S, h, w], above 0
    and summing to one over the S scales; the same for all classes.

    Args:
        in_channels: of the features of one scale.
        num_scales: S.
        channels: between the convolutions; default 512, as in the paper.
        norm: behind the 3×3 convolution; default "", none, as in the paper, whose networks have
            no norms. With optimizers of Adam's kind the many inputs of that convolution saturate
            the softmax within a few steps unless there is one.
    """

    def __init__(self, in_channels: int, num_scales: int, channels: int = 512, norm: str = ""):
        super().__init__()
        self.hidden = Conv2d(
            in_channels * num_scales,
            channels,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, channels),
            activation=F.relu,
        )
        self.scales = nn.Conv2d(channels, num_scales, 1)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        if self.hidden.bias is not None:
            nn.init.zeros_(self.hidden.bias)
        nn.init.zeros_(self.scales.weight)
        nn.init.zeros_(self.scales.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        logits = self.scales(self.hidden(torch.cat(list(features), dim=1)))
        return logits.float().softmax(dim=1)


def merge_by_weights(maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Σ_s weights_s · maps_s.

    Args:
        maps: S of [B, C, h, w].
        weights: [B, S, h, w].
    """
    merged = maps[0] * weights[:, :1]
    for index, scale_map in enumerate(maps[1:], start=1):
        merged = torch.addcmul(merged, scale_map, weights[:, index : index + 1])
    return merged
