"""How DeepLab2 (TensorFlow) stores weights, and how we do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def kernel_to_weight(kernel: Tensor) -> Tensor:
    """[height, width, in, out] → [out, in, height, width]."""
    return kernel.permute(3, 2, 0, 1)


def depthwise_to_weight(kernel: Tensor) -> Tensor:
    """[height, width, channels, 1] → [channels, 1, height, width]."""
    return kernel.permute(2, 3, 0, 1)


def matrix_to_weight(matrix: Tensor) -> Tensor:
    """[in, out] → [out, in, 1, 1], a 1×1 convolution."""
    return matrix.t()[:, :, None, None]


def flat(values: Tensor) -> Tensor:
    """[terms, 1, heads, 1, channels a head] → one after the other, the terms outermost."""
    return values.flatten()


def low_level_first(
    tensor: Tensor, layout: Callable[[Tensor], Tensor], low_channels: int, dim: int
) -> Tensor:
    """What reads a fusion's input: DeepLab2 puts the low-level channels last, we put them first.

    Args:
        tensor: in DeepLab2's layout.
        layout: to ours, but for the order of the channels.
        low_channels: how many come from the low-level feature.
        dim: of these channels, in our layout.
    """
    return torch.roll(layout(tensor), low_channels, dim)
