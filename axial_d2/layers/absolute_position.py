"""Absolute positions as sinusoids (Vaswani et al. 2017, section 3.5), for SASA's ablation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LONGEST_WAVE = 10_000.0


def sinusoid_positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Sines and cosines of the row in the first half of the channels, of the column in the rest.

    Args:
        height, width: of the image, in positions; any size.
        channels: divisible by 4.
        like: gives dtype and device.

    Returns:
        [channels, height, width].

    Raises:
        ValueError: channels that are no multiple of 4.
    """
    check_sinusoid_channels(channels)
    half = channels // 2
    rows = _waves(height, half, like)[:, :, None].expand(half, height, width)
    columns = _waves(width, half, like)[:, None].expand(half, height, width)
    return torch.cat([rows, columns])


def check_sinusoid_channels(channels: int) -> None:
    """Raises ValueError for channels that sines and cosines of both axes do not fill."""
    if channels % 4:
        raise ValueError(
            f"absolute positions need channels in multiples of 4 (sine and cosine of row and "
            f"column), not {channels}; choose another width."
        )


def _waves(length: int, channels: int, like: Tensor) -> Tensor:
    """[channels, length]: sines, then cosines."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    steps = torch.arange(0, channels, 2, device=like.device, dtype=dtype)
    frequencies = torch.exp(steps * (-math.log(LONGEST_WAVE) / channels))
    angles = frequencies[:, None] * torch.arange(length, device=like.device, dtype=dtype)
    return torch.cat([angles.sin(), angles.cos()]).to(like.dtype)
