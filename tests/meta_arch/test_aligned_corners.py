"""``PANOPTIC_DEEPLAB.ALIGN_CORNERS``: images on a grid of 16k + 1 pixels, tested and trained."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from axial_d2.meta_arch import AxialDeepLab
from axial_d2.meta_arch.batching import grid_size
from torch import Tensor

Build = Callable[..., AxialDeepLab]
ALIGNED = ("MODEL.PANOPTIC_DEEPLAB.ALIGN_CORNERS", True)
Size = tuple[int, int]


def image(height: int, width: int) -> Tensor:
    return torch.randint(256, (3, height, width)).byte()


def mean_padded(picture: Tensor, model: AxialDeepLab, size: Size) -> Tensor:
    """To ``size``, to the right and below, with the mean of each channel."""
    height, width = picture.shape[-2:]
    canvas = model.pixel_mean.expand(3, *size).clone()
    canvas[:, :height, :width] = picture
    return canvas


@pytest.mark.parametrize(
    ("image_size", "padded"),
    [((33, 49), (33, 49)), ((32, 48), (33, 49)), ((34, 50), (49, 65)), ((1, 2), (1, 17))],
)
def test_images_are_padded_to_one_more_than_a_multiple_of_16(
    build: Build, image_size: Size, padded: Size
) -> None:
    model = build(*ALIGNED)
    picture = image(*image_size)
    images = model._images([{"image": picture}])
    assert images.shape[-2:] == padded
    whole = model._images([{"image": mean_padded(picture, model, padded)}])
    torch.testing.assert_close(images, whole)


@pytest.mark.parametrize("image_size", [(33, 49), (32, 48), (41, 30), (1, 1)])
def test_the_maps_are_those_of_the_padded_image_without_its_margin(
    build: Build, image_size: Size
) -> None:
    model = build(*ALIGNED)
    picture = image(*image_size)
    with torch.no_grad():
        (given,) = model.output_maps([{"image": picture}])
        images = model._images([{"image": picture}])
        logits, center, offset = model._network_maps(images)
    height, width = image_size

    def resized(predictions: Tensor) -> Tensor:
        whole = F.interpolate(predictions, images.shape[-2:], mode="bilinear", align_corners=True)
        return whole[0, :, :height, :width]

    torch.testing.assert_close(given.probabilities, resized(logits).softmax(0))
    torch.testing.assert_close(given.heatmap, resized(center)[0])
    scale = torch.tensor([4.0 if side > 1 else 1.0 for side in images.shape[-2:]])
    torch.testing.assert_close(given.offsets, resized(offset) * scale[:, None, None])


def test_one_result_for_an_image_alone_and_in_company(build: Build) -> None:
    model, inputs = build(*ALIGNED), [{"image": image(*size)} for size in ((33, 49), (20, 60))]
    with torch.no_grad():
        together = model(inputs)
        alone = [model([each])[0] for each in inputs]
    for given, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(given["sem_seg"], expected["sem_seg"])


def test_a_divisibility_becomes_a_common_multiple(build: Build) -> None:
    model = build(*ALIGNED, "MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY", 24)
    assert (model.grid_step, model.size_divisibility) == (48, 0)
    assert model._images([{"image": image(49, 50)}]).shape[-2:] == (49, 97)
    assert build("MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY", 24).size_divisibility == 24


def test_grid_sizes() -> None:
    images = [torch.zeros(3, 5, 40), torch.zeros(3, 17, 2)]
    assert grid_size(images, 16) == [17, 49]
    assert grid_size(images, 0) == [17, 40]


@pytest.mark.parametrize("size", [(33, 49), (30, 45)])
def test_losses_are_those_of_aligned_maps(
    build: Build, training_example: Callable[..., dict], size: Size
) -> None:
    """Padding counts for nothing, so that targets may be cut to the image."""
    model = build(*ALIGNED).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    example = training_example(*size, [(1, 4, 5, 20, 30), (7, 20, 0, 30, 45)])
    losses = model([example])
    images = model._images([example])
    _, center, offset = (each.detach() for each in model._network_maps(images))
    height, width = size
    padded = images.shape[-2:]
    heatmap = F.interpolate(center, padded, mode="bilinear", align_corners=True)
    squares = (heatmap[0, 0, :height, :width] - example["center"]).square()
    weights = example["center_weights"][0]
    # float32, and a sum over the image in another order
    close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    close(losses["loss_center"], 200 * (squares * weights).sum() / weights.sum())
    offsets = 4 * F.interpolate(offset, padded, mode="bilinear", align_corners=True)
    distances = (offsets[0, :, :height, :width] - example["offset"]).abs().sum(0)
    weights = example["offset_weights"][0]
    close(losses["loss_offset"], 0.01 * (distances * weights).sum() / weights.sum())


def test_images_of_several_sizes_train_together(
    build: Build, training_example: Callable[..., dict]
) -> None:
    examples = [
        training_example(height, width, [(1, 0, 0, 9, 9)]) for height, width in ((40, 33), (17, 50))
    ]
    losses = build(*ALIGNED).train()(examples)
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()


def test_heads_that_resize_otherwise_are_refused(build: Build) -> None:
    model = build()
    with pytest.raises(
        ValueError, match=r"True for AxialDeepLab and False for its AxialDeepLabSem"
    ):
        AxialDeepLab(
            backbone=model.backbone,
            sem_seg_head=model.sem_seg_head,
            ins_embed_head=model.ins_embed_head,
            pixel_mean=[0.0],
            pixel_std=[1.0],
            thing_classes=[],
            align_corners=True,
        )
