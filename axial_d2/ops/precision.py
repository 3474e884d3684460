"""Attention computes in float32 or more, whatever its inputs."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def without_autocast(tensor: Tensor):
    """A context in which the operators on ``tensor``'s device keep the dtype they are given."""
    device = tensor.device.type
    if device == "meta":  # which has no autocast
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)


def at_least_float32(tensor: Tensor | None) -> Tensor | None:
    """Softmax and sums of squares want float32 even under autocast."""
    if tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16):
        return tensor.float()
    return tensor
