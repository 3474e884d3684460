"""Strides without arithmetic."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def subsample(x: Tensor, rows: int = 1, columns: int = 1) -> Tensor:
    """Every ``rows``-th row and ``columns``-th column of [B, C, H, W], the first among them.

    As a pooling of single pixels: a slice's gradient would not have channels last in memory, and
    batch norm's backward takes twenty times as long where its two inputs differ in that.
    """
    if rows == columns == 1:
        return x
    return F.avg_pool2d(x, 1, (rows, columns))
