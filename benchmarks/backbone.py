"""Axial-ResNet-S and SASA's ResNet-50 as classifiers, beside torchvision's ResNet-50."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.models import (
    TrainingStep,
    axial_classifier,
    local_classifier,
    relative_error,
    resnet50,
)
from benchmarks.registry import Contest, Goal, Run, Setting, Side, case

FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels-last": torch.channels_last,
}


def images(setting: Setting) -> Tensor:
    batch, side = setting.size((4, 224), (2, 33))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, side, side, generator=generator).to(setting.device)


def describe(batch: Tensor) -> str:
    return f"images {list(batch.shape)}, float32"


def resnet_sides(setting: Setting, make_run: Callable[[nn.Module, Tensor], Run]) -> Sequence[Side]:
    """ResNet-50 in both memory formats; which is faster differs between machines."""

    def side(name: str, memory_format: torch.memory_format) -> Side:
        def build() -> Run:
            batch = images(setting).to(memory_format=memory_format)
            return make_run(resnet50(setting.device, memory_format), batch)

        return Side(f"ResNet-50, {name}", build)

    return [side(name, memory_format) for name, memory_format in FORMATS.items()]


def inference(model: nn.Module, batch: Tensor) -> Run:
    model.eval()

    @torch.inference_mode()
    def run() -> Tensor:
        return model(batch)

    return run


def inference_contest(setting: Setting, name: str, classifier: Callable[..., nn.Module]) -> Contest:
    def build() -> Run:
        return inference(classifier(setting.device), images(setting))

    def check(ours: Run, peers: Sequence[Run]) -> float:
        reference = classifier(setting.device, "reference")
        return relative_error(ours(), inference(reference, images(setting))())

    return Contest(
        Side(name, build),
        resnet_sides(setting, inference),
        check,
        tolerance=1e-4,
        checked_against="the logits by the reference attention",
        shapes=describe(images(setting)),
        rounds=15,
    )


def training_contest(setting: Setting, name: str, classifier: Callable[..., nn.Module]) -> Contest:
    def build() -> Run:
        return TrainingStep(classifier(setting.device), images(setting))

    def check(ours: Run, peers: Sequence[Run]) -> float:
        assert isinstance(ours, TrainingStep)
        reference = TrainingStep(classifier(setting.device, "reference"), images(setting))
        loss, expected = ours(), reference()
        return max(
            relative_error(loss, expected),
            relative_error(ours.gradients(), reference.gradients()),
        )

    return Contest(
        Side(name, build),
        resnet_sides(setting, TrainingStep),
        check,
        # Rounding errors grow from block to block where batch norm sees a batch of 4.
        tolerance=2e-2,
        checked_against="loss and gradients by the reference attention",
        shapes=describe(images(setting)),
        notes=["Forward, backward and a step of SGD; batch norm in training mode."],
        rounds=7,
        calls_for_peak=2,
    )


@case(
    "classifier_inference",
    "Axial-ResNet-S forward, 224², batch 4, over ResNet-50",
    {"cpu": [Goal("time", 1.5, 1.0)], "cuda": []},
)
def classifier_inference(setting: Setting) -> Contest:
    return inference_contest(setting, "Axial-ResNet-S", axial_classifier)


@case(
    "classifier_training",
    "Axial-ResNet-S training step, 224², batch 4, over ResNet-50",
    {
        "cpu": [
            Goal("time", 2.0, 1.0),
            Goal("memory", 1.2, 0.8, "peak memory of that training step over ResNet-50"),
        ],
        "cuda": [],
    },
)
def classifier_training(setting: Setting) -> Contest:
    return training_contest(setting, "Axial-ResNet-S", axial_classifier)


@case(
    "local_classifier_inference",
    "SASA's ResNet-50 forward, 224², batch 4, over ResNet-50",
    {"cpu": [], "cuda": []},
)
def local_classifier_inference(setting: Setting) -> Contest:
    return inference_contest(setting, "SASA-50 behind a convolutional stem", local_classifier)


@case(
    "local_classifier_training",
    "SASA's ResNet-50 training step, 224², batch 4, over ResNet-50",
    {"cpu": [], "cuda": []},
)
def local_classifier_training(setting: Setting) -> Contest:
    return training_contest(setting, "SASA-50 behind a convolutional stem", local_classifier)
