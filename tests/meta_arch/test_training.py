"""Losses: for every size, every content and every precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from axial_d2.meta_arch import AxialDeepLab
from torch import Tensor

Build = Callable[..., AxialDeepLab]
Example = Callable[..., dict]

LOSSES = {"loss_sem_seg", "loss_center", "loss_offset"}
STUFF, THING, OTHER_THING = 7, 1, 2


def train(model: AxialDeepLab, *inputs: dict) -> dict[str, Tensor]:
    """Losses, all finite, with a finite gradient for every parameter."""
    model.train().zero_grad()
    losses = model(list(inputs))
    assert set(losses) == LOSSES
    assert all(loss.isfinite() and loss.shape == () for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    return {name: loss.detach() for name, loss in losses.items()}


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (7, 90), (1, 1), (3, 2), (15, 16), (99, 110)])
@pytest.mark.parametrize("decoder_input", ["none", "aspp"])
def test_every_size(
    build: Build, training_example: Example, size: tuple[int, int], decoder_input: str
) -> None:
    model = build(
        "MODEL.SEM_SEG_HEAD.DECODER_INPUT", decoder_input,
        "MODEL.INS_EMBED_HEAD.DECODER_INPUT", decoder_input,
    )  # fmt: skip
    segments = [(STUFF, 0, 0, *size), (THING, 0, 0, 1 + size[0] // 2, 9)]
    train(model, training_example(*size, segments), training_example(*size, segments))


@pytest.mark.parametrize("divisibility", [0, 1, 2, 16, 32, 33, 65])
def test_every_padding_of_a_mixed_batch(
    build: Build, training_example: Example, divisibility: int
) -> None:
    model = build("MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY", divisibility)
    train(
        model,
        training_example(30, 41, [(STUFF, 0, 0, 30, 41), (THING, 3, 5, 20, 20)]),
        training_example(45, 22, [(STUFF, 0, 0, 45, 22)]),
    )


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param([(STUFF, 0, 0, 32, 32)], id="one segment, no thing"),
        pytest.param([(THING, 0, 0, 32, 32)], id="one segment, a thing"),
        pytest.param([(STUFF, 0, 0, 20, 32), (8, 20, 0, 32, 32)], id="no thing"),
        pytest.param([(STUFF, 0, 0, 32, 32), (THING, 4, 4, 20, 20, "crowd")], id="crowd"),
        pytest.param([(THING, 0, 0, 32, 32, "crowd")], id="nothing but crowd"),
        pytest.param([(THING, 4, 4, 5, 5)], id="one pixel, the rest unlabelled"),
        pytest.param([], id="nothing labelled"),
    ],
)
def test_every_content(build: Build, training_example: Example, segments: list[tuple]) -> None:
    model = build()
    train(model, training_example(32, 32, segments))
    model.eval()
    assert "instances" in model([{"image": training_example(32, 32, segments)["image"]}])[0]


def test_unlabelled_pixels_cost_nothing(build: Build, training_example: Example) -> None:
    losses = train(build(), training_example(32, 32, []))
    assert all(loss == 0 for loss in losses.values())


def test_stuff_costs_no_offset_but_a_center_loss(build: Build, training_example: Example) -> None:
    losses = train(build(), training_example(32, 32, [(STUFF, 0, 0, 32, 32)]))
    assert losses["loss_center"] > 0
    assert losses["loss_sem_seg"] > 0


def test_targets_are_padded_so_that_padding_weighs_nothing(
    build: Build, training_example: Example
) -> None:
    inputs = [
        training_example(30, 41, [(STUFF, 0, 0, 30, 41), (THING, 3, 5, 20, 20)]),
        training_example(45, 22, [(OTHER_THING, 0, 0, 45, 22)]),
    ]
    targets = build()._targets(inputs, (45, 41))
    assert {t.shape[-2:] for t in targets.values()} == {(48, 44)}
    for index, (height, width) in enumerate([(30, 41), (45, 22)]):
        for name, value in (("sem_seg", 255), ("center_weights", 0), ("offset_weights", 0)):
            padded = targets[name][index].clone()
            assert torch.equal(padded[..., :height, :width], inputs[index][name])
            padded[..., :height, :width] = value
            assert (padded == value).all()


def test_losses_are_those_of_perfect_predictions_at_zero(
    build: Build, training_example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The branches' outputs meet their own targets: nothing is swapped, shifted or unscaled."""
    model = build("MODEL.SEM_SEG_HEAD.LOSS_TOP_K", 1.0).train()
    example = training_example(32, 32, [(STUFF, 0, 0, 32, 32), (THING, 8, 8, 24, 24)])
    # Constant inside of the thing is all that a stride of 4 can represent exactly.
    example["offset"] = torch.tensor([6.0, -2.0]).view(2, 1, 1).expand(2, 32, 32).clone()
    example["center"] = torch.full((32, 32), 0.7)
    example["sem_seg"] = torch.full((32, 32), STUFF)
    logits = torch.zeros(1, 10, 8, 8)
    logits[:, STUFF] = 50
    offsets = (example["offset"][None, :, ::4, ::4] / 4).clone()
    monkeypatch.setattr(model.sem_seg_head, "layers", lambda _: logits)
    monkeypatch.setattr(
        model.ins_embed_head, "layers", lambda _: (torch.full((1, 1, 8, 8), 0.7), offsets)
    )
    losses = model([example])
    assert all(loss.abs() < 1e-6 for loss in losses.values())
    offsets += torch.tensor([0.25, 0.0]).view(1, 2, 1, 1)  # one pixel further down
    assert model([example])["loss_offset"].item() == pytest.approx(0.01, rel=1e-4)


def test_bfloat16_autocast_is_close_to_float32(build: Build, training_example: Example) -> None:
    model = build()
    inputs = [
        training_example(40, 56, [(STUFF, 0, 0, 40, 56), (THING, 3, 5, 20, 20)]),
        training_example(40, 56, [(STUFF, 0, 0, 40, 56), (OTHER_THING, 9, 30, 30, 50)]),
    ]
    expected = train(model, *inputs)
    model.train().zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(inputs)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    # Batch norms over a dozen pixels at stride 16: up to 7.5 % apart over a dozen seeds.
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.1), name


@pytest.mark.parametrize("lacking", [["center"], ["sem_seg_weights", "offset"]])
def test_missing_targets_are_named(
    build: Build, training_example: Example, lacking: list[str]
) -> None:
    example = training_example(32, 32, [(STUFF, 0, 0, 32, 32)])
    for name in lacking:
        del example[name]
    with pytest.raises(ValueError, match=r"training data lack \[.*PanopticMapper") as error:
        build().train()([example])
    assert all(repr(name) in str(error.value) for name in lacking)
