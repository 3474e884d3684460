"""Test-time augmentation: a slow definition, bounded memory, sizes, and what is refused."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from augmented import augmented, image, maps_of, run
from axial_d2.meta_arch import AxialDeepLab, AxialDeepLabWithTTA
from axial_d2.meta_arch.test_time_augmentation import RatioMapperTTA, scale_mappers
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor

Build = Callable[..., AxialDeepLab]
MakeCfg = Callable[..., CfgNode]


def slow_average(
    model: AxialDeepLab, pixels: Tensor, output: tuple[int, int], sizes: list[tuple[int, int]]
) -> list[np.ndarray]:
    """Probabilities, heat-map and offsets, pixel by pixel from each network output."""
    height, width = output
    totals: list[np.ndarray] = [np.zeros((channels, *output)) for channels in (10, 1, 2)]
    for size in sizes:
        resized = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(
            size[::-1], Image.Resampling.BILINEAR
        )
        for flip in (False, True):
            picture = np.array(resized)[:, ::-1] if flip else np.array(resized)
            logits, center, offsets = network_outputs(model, picture.copy())
            for y in range(height):
                for x in range(width):
                    seen_at = width - 1 - x if flip else x
                    # Of the map's cells, whose centres are at whole numbers.
                    row = (y + 0.5) * size[0] / height / 4 - 0.5
                    column = (seen_at + 0.5) * size[1] / width / 4 - 0.5
                    exponentials = np.exp(between(logits, row, column))
                    totals[0][:, y, x] += exponentials / exponentials.sum()
                    totals[1][:, y, x] += between(center, row, column)
                    offset_y, offset_x = between(offsets, row, column)
                    totals[2][0, y, x] += offset_y * 4 * height / size[0]
                    totals[2][1, y, x] += offset_x * 4 * width / size[1] * (-1 if flip else 1)
    return [total / (2 * len(sizes)) for total in totals]


@torch.no_grad()
def network_outputs(model: AxialDeepLab, picture: np.ndarray) -> list[np.ndarray]:
    """Of [H, W, 3], padded to multiples of 32: logits, heat-map and offsets [C, h, w]."""
    normal = (torch.from_numpy(picture).permute(2, 0, 1) - model.pixel_mean) / model.pixel_std
    padded = torch.zeros(1, 3, *(-(-side // 32) * 32 for side in normal.shape[1:]))
    padded[0, :, : normal.shape[1], : normal.shape[2]] = normal
    features = model.backbone(padded)
    maps = (model.sem_seg_head.layers(features), *model.ins_embed_head.layers(features))
    return [maps_[0].double().numpy() for maps_ in maps]


def between(maps: np.ndarray, row: float, column: float) -> np.ndarray:
    """[C] between the four nearest cells of [C, h, w]; beyond the border the outermost one."""
    row = min(max(row, 0), maps.shape[1] - 1)
    column = min(max(column, 0), maps.shape[2] - 1)
    value = np.zeros(len(maps))
    for i in range(maps.shape[1]):
        for j in range(maps.shape[2]):
            weight = max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j))
            if weight:
                value += weight * maps[:, i, j]
    return value


def test_two_scales_and_their_mirror_images_equal_the_slow_average(build: Build) -> None:
    model = build("MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY", 32)
    pixels = image(26, 38)
    inputs = {"image": pixels, "height": 13, "width": 21}
    given = maps_of(augmented(model, (0.75, 1.5), flip=True), inputs)
    expected = slow_average(model, pixels, (13, 21), sizes=[(20, 29), (39, 57)])
    for maps, slow in zip(given, expected, strict=True):
        slow_maps = torch.from_numpy(slow).float().view_as(maps)
        torch.testing.assert_close(maps, slow_maps, rtol=1e-3, atol=1e-4)


def live_bytes(model: AxialDeepLab) -> int:
    """Of all tensors but the model's own."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if type(tensor) is Tensor and id(tensor) not in own
    }
    return sum(storages.values())


def held_at_each_run(model: AxialDeepLab, num_scales: int) -> list[int]:
    """Bytes of tensors that are alive whenever the network starts."""
    inputs = {"image": image(32, 48), "height": 128, "width": 192}
    before = live_bytes(model)
    held: list[int] = []
    hook = model.backbone.register_forward_pre_hook(
        lambda *_: held.append(live_bytes(model) - before)
    )
    run(augmented(model, [1.0] * num_scales, flip=True), inputs)
    hook.remove()
    return held


def test_memory_does_not_grow_with_the_number_of_scales(build: Build) -> None:
    """Nothing is left of earlier scales but one sum, and later ones have not begun."""
    model = build()
    held = held_at_each_run(model, num_scales=7)
    assert max(held) == max(held_at_each_run(model, num_scales=2))
    one_image = (10 + 1 + 2) * 128 * 192 * 4
    images = 32 * 48 * 3 * (1 + 1 + 1 + 4)  # given, resized, mirrored, normalised
    sums = [0, 1] + [1, 2] * 6  # of the scales before, and of this scale's first image
    for given, number in zip(held, sums, strict=True):
        assert number * one_image <= given <= number * one_image + 2 * images


def test_no_graph_is_kept(build: Build) -> None:
    (output,) = augmented(build(), (1.0,), flip=True)([{"image": image(16, 16)}])
    assert not output["sem_seg"].requires_grad


def test_training_is_refused(build: Build) -> None:
    wrapped = augmented(build(), (1.0,), flip=True).train()
    with pytest.raises(ValueError, match=r"does not train; call its eval\(\)"):
        wrapped([{"image": image(16, 16)}])


def test_the_mode_of_the_model_stays(build: Build, tiny_cfg: MakeCfg) -> None:
    """Detectron2's evaluation brings a model back into the mode in which it finds it."""
    model = build()
    assert not AxialDeepLabWithTTA(tiny_cfg(), model).training
    wrapped = AxialDeepLabWithTTA(tiny_cfg(), model.train())
    assert wrapped.training
    wrapped.eval()
    assert not model.training


def test_another_kind_of_model_is_refused(tiny_cfg: MakeCfg) -> None:
    model = build_model(tiny_cfg("MODEL.META_ARCHITECTURE", "PanopticDeepLab"))
    with pytest.raises(ValueError, match="for AxialDeepLab models; given a PanopticDeepLab"):
        AxialDeepLabWithTTA(tiny_cfg(), model)


def test_no_scale_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match="at least one scale"):
        AxialDeepLabWithTTA(model=build(), mappers=[])


def shapes(cfg: CfgNode, pixels: Tensor) -> list[list[tuple[int, ...]]]:
    """Of the images of each scale."""
    inputs = {"image": pixels, "height": pixels.shape[1], "width": pixels.shape[2]}
    return [
        [tuple(version["image"].shape[1:]) for version in mapper(inputs)]
        for mapper in scale_mappers(cfg)
    ]


def test_the_config_says_which_sizes(tiny_cfg: MakeCfg) -> None:
    landscape, portrait = image(40, 61), image(61, 40)
    pixels = ("TEST.AUG.MIN_SIZES", (20, 80, 0), "TEST.AUG.MAX_SIZE", 100)
    assert shapes(tiny_cfg(*pixels, "TEST.AUG.FLIP", False), landscape) == [
        [(20, 31)], [(66, 100)], [(40, 61)]
    ]  # fmt: skip
    # SCALES win over MIN_SIZES and MAX_SIZE.
    ratios = (*pixels, "TEST.AUG.SCALES", (0.5, 0.76, 2.0))
    for pixels, sizes in (
        (landscape, [(20, 31), (30, 46), (80, 122)]),
        (portrait, [(31, 20), (46, 30), (122, 80)]),
    ):
        assert shapes(tiny_cfg(*ratios), pixels) == [[size, size] for size in sizes]
    assert shapes(tiny_cfg("TEST.AUG.SCALES", (0.01,)), image(3, 9)) == [[(1, 3), (1, 3)]]


def test_the_mirror_image_is_the_second_of_a_scale() -> None:
    pixels = image(8, 10)
    itself, mirror = RatioMapperTTA([1.0], flip=True)({"image": pixels, "height": 8, "width": 10})
    assert torch.equal(itself["image"], pixels)
    assert torch.equal(mirror["image"], pixels.flip(-1))
