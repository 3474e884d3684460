"""The instance branch's losses: worked by hand, and against Detectron2's."""

from __future__ import annotations

import pytest
import torch
from detectron2.projects.panoptic_deeplab.panoptic_seg import PanopticDeepLabInsEmbedHead
from small_heads import COMMON, INSTANCE, instance_head

BRANCHES = ("center_losses", "offset_losses")


def test_center_loss_is_the_weighted_mean_square_times_200() -> None:
    weights = torch.zeros(1, 1, 4, 4)
    weights[0, 0, 0, :3] = 1
    targets = torch.zeros(1, 1, 4, 4)
    targets[0, 0, 0, :3] = torch.tensor([1.0, 0.5, 0.0])
    targets[0, 0, 3] = 7.0  # weighs nothing
    prediction = torch.full((1, 1, 1, 1), 0.5)
    loss = instance_head().center_losses(prediction, targets, weights)["loss_center"]
    assert loss.item() == pytest.approx(200 * (0.25 + 0 + 0.25) / 3)


def test_offset_loss_adds_both_axes_in_input_pixels() -> None:
    weights = torch.zeros(1, 1, 4, 4)
    weights[0, 0, 0, :2] = 1
    targets = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    prediction = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)  # (4, 0) input pixels
    loss = instance_head().offset_losses(prediction, targets, weights)["loss_offset"]
    assert loss.item() == pytest.approx(0.01 * (1 + 2))


@pytest.mark.parametrize("name", BRANCHES)
def test_losses_and_gradients_equal_detectron2s_on_one_process(name: str) -> None:
    theirs = PanopticDeepLabInsEmbedHead(**COMMON, **INSTANCE, train_size=None)
    channels = 1 if name == "center_losses" else 2
    targets = torch.randn(2, channels, 12, 20)
    weights = (torch.rand(2, 1, 12, 20) < 0.4).float()
    predictions = torch.randn(2, channels, 3, 5, requires_grad=True)
    results = []
    for head in (instance_head(), theirs):
        (loss,) = getattr(head, name)(predictions, targets, weights).values()
        results.append((loss, *torch.autograd.grad(loss, predictions)))
    for given, expected in zip(*results, strict=True):
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("name", BRANCHES)
def test_nothing_to_learn_costs_nothing_and_keeps_the_gradient_path(name: str) -> None:
    channels = 1 if name == "center_losses" else 2
    predictions = torch.randn(1, channels, 2, 2, requires_grad=True)
    weights = torch.zeros(1, 1, 8, 8)
    (loss,) = getattr(instance_head(), name)(
        predictions, torch.randn(1, channels, 8, 8), weights
    ).values()
    loss.backward()
    assert loss.item() == 0
    assert not predictions.grad.any()
