"""Constants of batch norms that are not PyTorch's, for weights that come from elsewhere."""

from __future__ import annotations

from detectron2.layers import FrozenBatchNorm2d
from torch import nn


def set_norm_constants(module: nn.Module, eps: float, momentum: float, name: str = "") -> None:
    """Gives every batch norm inside of ``module``, frozen ones too, the same constants, in place.

    Args:
        module: of any kind; with no batch norm inside, nothing happens.
        eps: above 0, added to the variance. PyTorch has 1e-5, TensorFlow and DeepLab2 1e-3.
        momentum: above 0, at most 1: weight of a new batch in the running statistics. PyTorch
            has 0.1; DeepLab2's 0.99 of the old statistics is 0.01 here.
        name: of the config node that an error points to.

    Raises:
        ValueError: a constant outside of its range.
    """
    check_norm_constants(eps, momentum, name)
    for norm in module.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            norm.eps = eps
        elif isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.eps, norm.momentum = eps, momentum


def check_norm_constants(eps: float, momentum: float, name: str = "") -> None:
    """Raises ValueError unless ``eps`` is above 0, and ``momentum`` above 0 and at most 1."""
    prefix = f"{name}." if name else ""
    if eps <= 0:
        raise ValueError(f"{prefix}NORM_EPS is {eps}; it must be greater than 0, such as 0.001.")
    if not 0 < momentum <= 1:
        raise ValueError(
            f"{prefix}NORM_MOMENTUM is {momentum}; it is the weight of a new batch in the running "
            "statistics and must be greater than 0 and at most 1, such as 0.01."
        )
