"""What no shape shows: settings of a model that differ from those its weights were trained with."""

from __future__ import annotations

from detectron2.layers import FrozenBatchNorm2d
from torch import nn


def differing_striding(model: nn.Module, striding: str) -> list[str]:
    """A note where blocks of the model stride in another way."""
    kinds = {str(module.striding) for module in model.modules() if hasattr(module, "striding")}
    if kinds <= {striding}:
        return []
    return [
        f"the weights were trained with STRIDING {striding}, the model has "
        f"{', '.join(sorted(kinds - {striding}))}: features differ until it is fine-tuned"
    ]


def differing_norms(model: nn.Module, eps: float) -> list[str]:
    """A note where batch norms of the model's backbone have another epsilon."""
    backbone = getattr(model, "backbone", model)
    norms = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)
    found = {module.eps for module in backbone.modules() if isinstance(module, norms)}
    if found <= {eps}:
        return []
    return [
        f"the weights were trained with NORM_EPS {eps:g}, the model has "
        f"{', '.join(f'{other:g}' for other in sorted(found - {eps}))}: features differ"
    ]
