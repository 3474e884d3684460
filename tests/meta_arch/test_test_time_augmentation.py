"""Several scales and mirror images: identities."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from augmented import (
    PAPERS_SCALES,
    Instance,
    Semantic,
    assert_equal_maps,
    assert_equal_results,
    augmented,
    image,
    maps_of,
    mirrored,
    picture_of_maps,
    readable_model,
    run,
)
from axial_d2.meta_arch import AxialDeepLab, AxialDeepLabWithTTA
from axial_d2.meta_arch.test_time_augmentation import RatioMapperTTA
from detectron2.modeling import DatasetMapperTTA
from torch import Tensor, nn

Build = Callable[..., AxialDeepLab]


@pytest.mark.parametrize(
    "mapper",
    [RatioMapperTTA([1.0], flip=False), DatasetMapperTTA([0], 4000, False)],
    ids=["ratio 1", "as it is"],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("divisibility", [0, 33])
def test_one_scale_without_flip_is_plain_inference(
    build: Build, mapper: Callable, dtype: torch.dtype, divisibility: int
) -> None:
    model = build("MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY", divisibility)
    model.stuff_area = 0
    inputs = [
        {"image": image(32, 48).to(dtype)},
        {"image": image(17, 40).to(dtype), "height": 30, "width": 80},
        {"image": image(32, 48).to(dtype), "height": 16},
        {"image": image(48, 31).to(dtype), "width": 24},
        {"image": image(17, 40).to(dtype)},
        {"image": image(3, 2).to(dtype)},
    ]
    expected = run(model, *inputs)
    assert any(len(result["instances"]) for result in expected)
    given = run(AxialDeepLabWithTTA(model=model, mappers=[mapper]), *inputs)
    for result, plain in zip(given, expected, strict=True):
        assert_equal_results(result, plain)


def test_the_images_own_size_in_pixels_is_plain_inference(build: Build) -> None:
    model = build()
    wrapped = AxialDeepLabWithTTA(model=model, mappers=[DatasetMapperTTA([33], 4000, False)])
    inputs = {"image": image(47, 33), "height": 94, "width": 60}
    assert_equal_results(run(wrapped, inputs)[0], run(model, inputs)[0])


# Halves and doubles of whole numbers are exact in floating point, other ratios round.
@pytest.mark.parametrize(
    ("size", "scales"),
    [
        ((32, 48), (1.0,)),
        ((33, 47), (1.0,)),
        ((7, 90), (1.0,)),
        ((32, 48), (0.5, 1.0, 2.0)),
        ((34, 46), (2.0, 0.5)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("divisibility", [0, 32])
def test_a_mirrored_image_gives_the_mirrored_maps(
    build: Build,
    size: tuple[int, int],
    scales: tuple[float, ...],
    dtype: torch.dtype,
    divisibility: int,
) -> None:
    """To the bit, though strides and padding on the right leave the network asymmetric."""
    model = build("MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY", divisibility)
    output = {"height": 41, "width": 59}
    inputs = {"image": image(*size).to(dtype), **output}
    mirror = {"image": inputs["image"].flip(-1), **output}
    asymmetric = maps_of(model, mirror).offsets - mirrored(maps_of(model, inputs)).offsets
    assert asymmetric.abs().max() > 0.1
    wrapped = augmented(model, scales, flip=True)
    assert_equal_maps(maps_of(wrapped, mirror), mirrored(maps_of(wrapped, inputs)))


def test_a_mirrored_image_gives_nearly_the_mirrored_maps_at_any_scale(build: Build) -> None:
    wrapped = augmented(build().double(), PAPERS_SCALES, flip=True)
    pixels = torch.rand(3, 37, 53) * 255
    maps = mirrored(maps_of(wrapped, {"image": pixels}))
    for given, expected in zip(maps_of(wrapped, {"image": pixels.flip(-1)}), maps, strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


def test_an_exactly_symmetric_network_gains_nothing_from_the_mirror_image() -> None:
    """Its two predictions agree once mirrored back, x components and all."""
    model = readable_model(Semantic(), Instance())
    inputs = {"image": picture_of_maps()}
    (plain,) = run(model, inputs)
    assert len(plain["instances"]) > 5
    assert_equal_results(run(augmented(model, (1.0,), flip=True), inputs)[0], plain)


def test_a_mirrored_image_gives_the_mirrored_segments() -> None:
    model = readable_model(Semantic(), Instance())
    wrapped = augmented(model, (1.0, 0.5), flip=True)
    pixels = picture_of_maps()
    given, original = (run(wrapped, {"image": x})[0] for x in (pixels.flip(-1), pixels))
    assert len(original["instances"]) > 5
    assert torch.equal(given["panoptic_seg"][0], original["panoptic_seg"][0].flip(-1))
    for info, expected in zip(given["panoptic_seg"][1], original["panoptic_seg"][1], strict=True):
        assert info["score"] == pytest.approx(expected["score"])
        assert {**info, "score": 0} == {**expected, "score": 0}
    masks = original["instances"].pred_masks.flip(-1)
    assert torch.equal(given["instances"].pred_masks, masks)


class OneCentre(nn.Module):
    """Every cell points, in cells, to the same place of the image: 0.3 down and 0.7 across."""

    common_stride = 4

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        height, width = (size // 4 for size in images.shape[-2:])
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        offsets = torch.stack([0.3 * height - y - 0.5, 0.7 * width - x - 0.5])
        return images.new_zeros(1, 1, height, width), offsets[None]


@pytest.mark.parametrize("scales", [(0.5,), (2.0,), (0.5, 1.0, 1.5, 2.0)])
def test_offsets_have_output_pixels_at_every_scale(scales: tuple[float, ...]) -> None:
    model = readable_model(Semantic(), OneCentre())
    inputs = {"image": picture_of_maps(), "height": 96, "width": 192}
    offsets = maps_of(augmented(model, scales, flip=False), inputs).offsets
    y, x = torch.meshgrid(torch.arange(96), torch.arange(192), indexing="ij")
    expected = torch.stack([0.3 * 96 - y - 0.5, 0.7 * 192 - x - 0.5])
    inside = (slice(None), slice(8, -8), slice(12, -12))  # half a cell of the coarsest map
    torch.testing.assert_close(offsets[inside], expected[inside], rtol=0, atol=1e-3)


def test_the_order_of_the_scales_does_not_matter(build: Build) -> None:
    model = build()
    inputs = {"image": image(24, 40)}
    forwards = maps_of(augmented(model, PAPERS_SCALES, flip=True), inputs)
    backwards = maps_of(augmented(model, PAPERS_SCALES[::-1], flip=True), inputs)
    for given, expected in zip(backwards, forwards, strict=True):
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5)])
def test_a_mixed_batch_equals_one_by_one(build: Build, scales: tuple[float, ...]) -> None:
    wrapped = augmented(build(), scales, flip=True)
    inputs = [
        {"image": image(32, 48)},
        {"image": image(17, 40), "height": 30, "width": 80},
        {"image": image(32, 48), "height": 16, "width": 24},
        {"image": image(48, 32)},
        {"image": image(17, 40)},
    ]
    for result, alone in zip(run(wrapped, *inputs), inputs, strict=True):
        (expected,) = run(wrapped, alone)
        torch.testing.assert_close(result["sem_seg"], expected["sem_seg"], rtol=0, atol=1e-4)
    assert run(wrapped) == []


def test_averages_differ_from_plain_inference(build: Build) -> None:
    model = build()
    inputs = {"image": image(32, 48)}
    plain = maps_of(model, inputs)
    for scales, flip in (((1.0,), True), ((0.5, 1.0), False)):
        for given, single in zip(
            maps_of(augmented(model, scales, flip), inputs), plain, strict=True
        ):
            assert (given - single).abs().max() > 1e-3
