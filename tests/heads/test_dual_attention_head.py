"""DANet's head: sizes, losses, identities, ablations, and its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from axial_d2.heads import DualAttentionHead, LinearSemSegHead
from axial_d2.heads.semantic import pixel_cross_entropy
from detectron2.layers import ShapeSpec
from torch import nn

SHAPE = {"res5": ShapeSpec(channels=12, stride=8)}


def head(**options) -> DualAttentionHead:
    arguments = {"num_classes": 4, "channels": 16, "norm": "BN", "dropout": 0.0, **options}
    return DualAttentionHead(input_shape=SHAPE, **arguments)


def features(height: int = 3, width: int = 5) -> dict[str, torch.Tensor]:
    return {"res5": torch.randn(2, 12, height, width)}


def targets(height: int = 24, width: int = 40) -> torch.Tensor:
    return torch.randint(4, (2, height, width))


def test_parameters_of_the_papers_head() -> None:
    with torch.device("meta"):
        built = DualAttentionHead(
            input_shape={"res5": ShapeSpec(channels=2048, stride=8)}, num_classes=19
        )
    # Two branches of 3×3 convolutions with norms, three 1×1 ones with bias, two scales, and three
    # classifiers.
    branch = 9 * 2048 * 512 + 9 * 512 * 512 + 4 * 512
    attention = 2 * (512 * 64 + 64) + 512 * 512 + 512 + 2
    expected = 2 * branch + attention + 3 * (512 * 19 + 19)
    assert sum(p.numel() for p in built.parameters()) == expected
    assert expected == pytest.approx(23.95e6, rel=0.001)


def test_a_new_head_is_its_convolutional_baseline() -> None:
    attention = head()
    baseline = head(position_branch="convolutions", channel_branch="convolutions")
    missing = baseline.load_state_dict(attention.state_dict(), strict=False)
    assert not missing.missing_keys
    x, truth = features(), targets()
    for training in (True, False):
        attention.train(training)
        baseline.train(training)
        given, expected = attention.outputs(x), baseline.outputs(x)
        assert len(given) == 3
        assert all(torch.equal(scores, expected[name]) for name, scores in given.items())
    losses = [each.train()(x, truth)[1] for each in (attention, baseline)]
    assert losses[0] == losses[1]
    # And not for ever.
    nn.init.ones_(attention.attention_layer("position").alpha)
    assert not torch.equal(attention.eval().layers(x), baseline.eval().layers(x))


def test_three_outputs_three_equal_losses_and_the_fused_one_at_test() -> None:
    built, x, truth = head(), features(), targets()
    outputs = built.outputs(x)
    assert {name: scores.shape for name, scores in outputs.items()} == dict.fromkeys(
        ("sem_seg", "position", "channel"), (2, 4, 3, 5)
    )
    nothing, losses = built(x, truth)
    assert nothing is None
    for name, scores in built.outputs(x).items():
        up = nn.functional.interpolate(scores, (24, 40), mode="bilinear", align_corners=False)
        expected = nn.functional.cross_entropy(up, truth)
        torch.testing.assert_close(losses[f"loss_{name}"], expected)
    assert len(losses) == 3
    branches = built.eval().branch_features(x)
    fused = built.predictor(branches["position"] + branches["channel"])
    for name, predictor in built.branch_predictors.items():
        torch.testing.assert_close(built.outputs(x)[name], predictor(branches[name]))
    scores, no_losses = built(x)
    up = nn.functional.interpolate(fused, (24, 40), mode="bilinear", align_corners=False)
    torch.testing.assert_close(scores, up)
    assert not no_losses


@pytest.mark.parametrize(
    ("position", "channel"),
    [("attention", "none"), ("none", "attention"), ("convolutions", "none")],
)
def test_either_branch_can_be_left_out(position: str, channel: str) -> None:
    built = head(position_branch=position, channel_branch=channel)
    (name,) = built.branches
    assert name == ("position" if channel == "none" else "channel")
    _, losses = built(features(), targets())
    assert set(losses) == {"loss_sem_seg"}
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None for p in built.parameters())
    other = {"position": "channel", "channel": "position"}[name]
    with pytest.raises(ValueError, match=f"{other.upper()}_BRANCH"):
        built.attention_layer(other)


def test_unlabelled_pixels_do_not_count_and_may_be_all_there_is() -> None:
    truth = targets()
    truth[:, :10] = 255
    scores = torch.randn(2, 4, 24, 40, requires_grad=True)
    labelled = nn.functional.cross_entropy(scores[:, :, 10:], truth[:, 10:])
    torch.testing.assert_close(pixel_cross_entropy(scores, truth, 255), labelled)
    nothing = pixel_cross_entropy(scores, torch.full_like(truth, 255), 255)
    nothing.backward()
    assert nothing == 0
    assert scores.grad is not None
    assert not scores.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position_branch": "conv"}, "POSITION_BRANCH is 'conv'.*'convolutions'"),
        ({"position_branch": "none", "channel_branch": "none"}, "both 'none'"),
        ({"channel_softmax": "max"}, "CHANNEL_SOFTMAX is 'max'.*'reversed_energy'"),
        ({"dropout": 1.0}, "DROPOUT is 1.0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head(**options)


def test_one_feature_is_needed() -> None:
    two = {**SHAPE, "res4": ShapeSpec(channels=8, stride=8)}
    with pytest.raises(ValueError, match=r"IN_FEATURES \['res5', 'res4'\] must be one feature"):
        LinearSemSegHead(input_shape=two, num_classes=2)


@pytest.mark.slow
def test_a_crop_of_768_trains_in_less_than_a_gibibyte() -> None:
    """The paper's head with its weights, input and all gradients, at stride 8."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak_memory", "dual_attention_head", "auto"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    peak = json.loads(result.stdout.splitlines()[-1])
    assert 200e6 < peak < 0.8 * 2**30
