"""torchvision's VGG-16, for the convolutions of DeepLab-LargeFOV."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from axial_d2.weights.core import Rule, Tensors, WeightsError, shapes_of
from torch import nn

# Convolutions of conv1 … conv5; torchvision numbers them with ReLUs and pools between them.
CONVOLUTIONS = (2, 2, 3, 3, 3)


class TorchvisionVGGFormat:
    """VGG-16 without norms; fc6 and fc7 start anew, since LargeFOV's have other shapes."""

    name = "torchvision VGG-16"

    def recognises(self, names: Collection[str]) -> bool:
        return {"features.0.weight", "features.28.weight", "classifier.0.weight"} <= set(names)

    def rules(self, model: nn.Module, source: Tensors) -> list[Rule]:
        first = "conv1.conv1_1.weight"
        found = [name for name in shapes_of(model) if name.endswith(first)]
        if not found:
            raise WeightsError(
                "the model has no VGG-16, which these weights are for; set MODEL.BACKBONE.NAME to "
                "build_vgg16_largefov_backbone."
            )
        prefix = found[0].removesuffix(first)
        rules, index = [], 0
        for stage, count in enumerate(CONVOLUTIONS, start=1):
            for number in range(1, count + 1):
                for tensor in ("weight", "bias"):
                    target = f"{prefix}conv{stage}.conv{stage}_{number}.{tensor}"
                    rules.append(Rule((f"features.{index}.{tensor}",), target))
                index += 2  # a ReLU follows
            index += 1  # and a pool
        return rules

    def ignored(self, model: nn.Module, source: Tensors) -> list[tuple[str, str]]:
        return [(r"^classifier\.", "fully connected layers, whose shapes are not LargeFOV's")]

    def options(self, source: Tensors) -> list[Any]:
        return ["MODEL.BACKBONE.NAME", "build_vgg16_largefov_backbone"]

    def notes(self, model: nn.Module) -> list[str]:
        return []
