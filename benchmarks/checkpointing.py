"""What gradient checkpointing saves, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from axial_d2.backbone.checkpointing import checkpoint_stages
from torch import Tensor

from benchmarks.backbone import describe, images
from benchmarks.models import TrainingStep, axial_classifier, relative_error
from benchmarks.registry import Contest, Run, Setting, Side, case

STAGES = ("res2", "res3")


def training_step(setting: Setting, stages: Sequence[str]) -> TrainingStep:
    model = axial_classifier(setting.device)
    checkpoint_stages(model.backbone, stages)  # type: ignore[arg-type]
    return TrainingStep(model, batch(setting))


def batch(setting: Setting) -> Tensor:
    return images(setting)[:2]


@case(
    "checkpointing",
    f"Axial-ResNet-S training step with CHECKPOINT_STAGES {', '.join(STAGES)}, over without",
    {"cpu": [], "cuda": []},
)
def checkpointing(setting: Setting) -> Contest:
    def check(ours: Run, peers: Sequence[Run]) -> float:
        (plain,) = peers
        assert isinstance(ours, TrainingStep)
        assert isinstance(plain, TrainingStep)
        loss, expected = ours(), plain()
        return max(
            relative_error(loss, expected), relative_error(ours.gradients(), plain.gradients())
        )

    return Contest(
        Side("checkpointed", lambda: training_step(setting, STAGES)),
        [Side("everything kept", lambda: training_step(setting, ()))],
        check,
        tolerance=1e-4,
        checked_against="loss and gradients without it",
        shapes=describe(batch(setting)),
        notes=["Forward, backward and a step of SGD; batch norm in training mode."],
        rounds=3,
        warm=True,
        calls_for_peak=2,
    )
