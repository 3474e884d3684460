"""Layers with nothing at its initial value, as tests want them."""

from __future__ import annotations

from typing import Any

import torch
from axial_d2.layers import AxialAttention
from torch import nn


def make_layer(
    axis: str = "width",
    *,
    in_channels: int = 5,
    key_channels: int = 4,
    value_channels: int = 6,
    num_heads: int = 2,
    max_span: int = 9,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> AxialAttention:
    layer = AxialAttention(
        in_channels,
        key_channels,
        value_channels,
        axis,
        num_heads=num_heads,
        max_span=max_span,
        **options,
    )
    randomise_norms(layer)
    return layer.to(dtype)


def randomise_norms(module: nn.Module) -> None:
    """Weights of both signs, biases and running statistics away from their start."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
        elif name.endswith(("running_mean", "norm.bias", "norm.weight")):
            nn.init.normal_(tensor)
