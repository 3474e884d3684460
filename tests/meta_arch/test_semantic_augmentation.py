"""Multi-scale and flipped inference of semantic segmentors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from axial_d2.meta_arch import SemanticSegmentorWithTTA
from axial_d2.meta_arch.augmentation_mappers import RatioMapperTTA
from semantic_models import example, plain, scales
from torch import nn


def augmented(model: nn.Module, *ratios: float, flip: bool) -> SemanticSegmentorWithTTA:
    mappers = [RatioMapperTTA([ratio], flip) for ratio in ratios]
    return SemanticSegmentorWithTTA(model=model, mappers=mappers)


@pytest.mark.parametrize("build", [plain, scales])
def test_the_plain_scale_alone_is_the_plain_probabilities(build) -> None:
    model, inputs = build(), [{**example(16, 20), "height": 31, "width": 27}, example(9, 12)]
    outputs = augmented(model, 1.0, flip=False)(inputs)
    for given, expected in zip(outputs, model(inputs), strict=True):
        torch.testing.assert_close(given["sem_seg"], expected["sem_seg"].softmax(dim=0))


def test_a_mirrored_image_gives_the_mirrored_average() -> None:
    model, inputs = augmented(plain(), 1.0, 0.5, flip=True), example(16, 20)
    mirrored = {"image": inputs["image"].flip(-1)}
    (given,), (expected,) = model([mirrored]), model([inputs])
    torch.testing.assert_close(given["sem_seg"], expected["sem_seg"].flip(-1))
    plain_model = model.model
    (one,), (other,) = plain_model([inputs]), plain_model([mirrored])
    assert not torch.allclose(one["sem_seg"], other["sem_seg"].flip(-1), atol=1e-3)


def test_scales_are_averaged_as_probabilities_in_the_size_of_the_output() -> None:
    model, inputs = plain(), example(16, 24)
    half = F.interpolate(
        inputs["image"][None], (8, 12), mode="bilinear", align_corners=False
    ).round()
    (whole,) = model([inputs])
    (small,) = model([{"image": half[0], "height": 16, "width": 24}])
    expected = (whole["sem_seg"].softmax(0) + small["sem_seg"].softmax(0)) / 2
    (given,) = augmented(model, 1.0, 0.5, flip=False)([inputs])
    # Detectron2 resizes with Pillow, which rounds to whole pixels and filters a little more.
    assert (given["sem_seg"] - expected).abs().mean() < 0.03
    torch.testing.assert_close(given["sem_seg"].sum(dim=0), torch.ones(16, 24))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="given a Conv2d"):
        augmented(nn.Conv2d(1, 1, 1), 1.0, flip=True)
    with pytest.raises(ValueError, match="at least one scale"):
        augmented(plain(), flip=True)
    with pytest.raises(ValueError, match=r"call its eval\(\) first"):
        augmented(plain().train(), 1.0, flip=True)([example(8, 8)])
