"""DANet's attention over positions and its head, which never write the (H·W)² map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from axial_d2.heads import DualAttentionHead
from axial_d2.ops import position_attention
from detectron2.layers import ShapeSpec
from torch import Tensor

from benchmarks.models import relative_error
from benchmarks.registry import Contest, Goal, Run, Setting, Side, case

IN_CHANNELS, STRIDE, NUM_CLASSES = 2048, 8, 19
CHANNELS, KEY_CHANNELS = 512, 64


class PositionTraining:
    """Position attention of one image with its backward."""

    def __init__(self, positions: int, implementation: str, device: str):
        generator = torch.Generator().manual_seed(0)
        self.implementation = implementation
        self.inputs = [
            (torch.randn(1, positions, channels, generator=generator) * scale)
            .to(device)
            .requires_grad_()
            for channels, scale in ((KEY_CHANNELS, 0.3), (KEY_CHANNELS, 0.3), (CHANNELS, 1.0))
        ]

    def __call__(self) -> Tensor:
        query, key, value = self.inputs
        output = position_attention(query, key, value, self.implementation)
        for tensor in self.inputs:
            tensor.grad = None
        output.square().sum().backward()
        return output.detach()

    def gradients(self) -> list[Tensor]:
        """Of query, key and value, in the last call."""
        return [tensor.grad for tensor in self.inputs if tensor.grad is not None]


class HeadTraining:
    """The paper's head on one crop at stride 8: losses and backward, to its input too.

    Args:
        side: of the crop in pixels.
        implementation: of position attention.
    """

    def __init__(self, side: int, implementation: str = "auto", device: str = "cpu"):
        generator = torch.Generator().manual_seed(0)
        shape = {"res5": ShapeSpec(channels=IN_CHANNELS, stride=STRIDE)}
        head = DualAttentionHead(input_shape=shape, num_classes=NUM_CLASSES, norm="BN")
        head.attention_layer("position").implementation = implementation
        self.head = head.to(device).train()
        cells = side // STRIDE
        features = torch.randn(1, IN_CHANNELS, cells, cells, generator=generator)
        self.features = features.to(device).requires_grad_()
        targets = torch.randint(NUM_CLASSES, (1, side, side), generator=generator)
        self.targets = targets.to(device)

    def __call__(self) -> Tensor:
        self.head.zero_grad()
        self.features.grad = None
        _, losses = self.head({"res5": self.features}, self.targets)
        loss = sum(losses.values())
        loss.backward()
        return loss.detach()


@case(
    "position_attention",
    "DANet's position attention, forward and backward, over the explicit map",
    {"cpu": [], "cuda": []},
)
def position_attention_case(setting: Setting) -> Contest:
    side = setting.size(96, 6)

    def training(implementation: str) -> Side:
        return Side(
            implementation, lambda: PositionTraining(side**2, implementation, setting.device)
        )

    def check(ours: Run, peers: Sequence[Run]) -> float:
        errors = [relative_error(ours(), peers[0]())]
        assert isinstance(ours, PositionTraining)
        assert isinstance(peers[0], PositionTraining)
        for given, expected in zip(ours.gradients(), peers[0].gradients(), strict=True):
            errors.append(relative_error(given, expected))
        return max(errors)

    return Contest(
        training("auto"),
        [training("reference"), training("fused")],
        check,
        tolerance=1e-4,
        checked_against="the explicit (H·W)² map",
        shapes=f"1 image of {side}×{side} positions, {KEY_CHANNELS} key and {CHANNELS} channels, "
        "float32",
        rounds=2,
    )


@case(
    "dual_attention_head",
    "DANet's head, training step of a 768×768 crop at stride 8, over the explicit map",
    {"cpu": [Goal("memory", 1.0, 0.8, "peak of the head over the explicit map's")], "cuda": []},
)
def dual_attention_head(setting: Setting) -> Contest:
    side = setting.size(768, 48)

    def training(implementation: str) -> Side:
        return Side(implementation, lambda: HeadTraining(side, implementation, setting.device))

    def check(ours: Run, peers: Sequence[Run]) -> float:
        torch.manual_seed(0)
        given, expected = (
            HeadTraining(side, name, setting.device) for name in ("auto", "reference")
        )
        expected.head.load_state_dict(given.head.state_dict())
        for training_ in (given, expected):
            training_.head.eval()
            torch.nn.init.ones_(training_.head.attention_layer("position").alpha)
        with torch.no_grad():
            scores = [each.head({"res5": each.features})[0] for each in (given, expected)]
        return relative_error(*scores)

    return Contest(
        training("auto"),
        [training("reference")],
        check,
        tolerance=1e-3,
        checked_against="the scores by the explicit (H·W)² map",
        shapes=f"1 crop of {side}×{side} at stride {STRIDE}, {IN_CHANNELS} channels, float32",
        rounds=1,
    )
