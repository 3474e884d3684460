"""Augmented models, what they average, and a network whose maps are its image's channels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from axial_d2.meta_arch import AxialDeepLab, AxialDeepLabWithTTA
from axial_d2.meta_arch.axial_deeplab import OutputMaps
from axial_d2.meta_arch.test_time_augmentation import RatioMapperTTA
from torch import Tensor, nn

PAPERS_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


def image(height: int, width: int) -> Tensor:
    return torch.randint(256, (3, height, width)).byte()


def augmented(model: AxialDeepLab, scales: Sequence[float], flip: bool) -> AxialDeepLabWithTTA:
    return AxialDeepLabWithTTA(
        model=model, mappers=[RatioMapperTTA([scale], flip) for scale in scales]
    )


@torch.no_grad()
def run(model: nn.Module, *inputs: dict) -> list[dict]:
    return model(list(inputs))


def maps_of(model: nn.Module, inputs: dict) -> OutputMaps:
    """What the segments of one image are made from."""
    network = model.model if isinstance(model, AxialDeepLabWithTTA) else model
    seen: list[OutputMaps] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "_result", lambda maps: seen.append(maps) or {})
        run(model, inputs)
    (maps,) = seen
    return maps


def mirrored(maps: OutputMaps) -> OutputMaps:
    sign = torch.tensor([1.0, -1.0]).view(2, 1, 1)
    return OutputMaps(
        maps.probabilities.flip(-1), maps.heatmap.flip(-1), maps.offsets.flip(-1) * sign
    )


def assert_equal_maps(given: OutputMaps, expected: OutputMaps) -> None:
    for name, value in expected._asdict().items():
        assert torch.equal(getattr(given, name), value), name


def assert_equal_results(given: dict, expected: dict) -> None:
    assert torch.equal(given["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert given["panoptic_seg"][1] == expected["panoptic_seg"][1]
    assert torch.equal(given["sem_seg"], expected["sem_seg"])
    assert given["instances"].image_size == expected["instances"].image_size
    fields = expected["instances"].get_fields()
    assert given["instances"].get_fields().keys() == fields.keys()
    for name, value in fields.items():
        other = given["instances"].get(name)
        if name == "pred_boxes":
            value, other = value.tensor, other.tensor
        assert torch.equal(other, value), name


class Semantic(nn.Module):
    """Logits are the first two channels of the image, at stride 4."""

    common_stride = 4

    def layers(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images[:, :2], 4)


class Instance(nn.Module):
    """Centres are the third channel, offsets the slope of the fourth, at stride 4."""

    common_stride = 4

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        heatmap, hills = F.avg_pool2d(images[:, 2:], 4).split(1, dim=1)
        hills = F.pad(hills, (1, 1, 1, 1), mode="replicate")
        slope_y = hills[..., 2:, 1:-1] - hills[..., :-2, 1:-1]
        slope_x = hills[..., 1:-1, 2:] - hills[..., 1:-1, :-2]
        return heatmap, torch.cat([slope_y, slope_x], dim=1)


def readable_model(semantic: nn.Module, instance: nn.Module, channels: int = 4) -> AxialDeepLab:
    return AxialDeepLab(
        backbone=nn.Identity(),
        sem_seg_head=semantic,
        ins_embed_head=instance,
        pixel_mean=[0.0] * channels,
        pixel_std=[1.0] * channels,
        thing_classes=[1],
        stuff_area=0,
        nms_kernel=5,
    ).eval()


def picture_of_maps() -> Tensor:
    """[4, 48, 64] of whole numbers, so that sums are exact in any order."""
    maps = torch.randint(0, 9, (4, 48, 64)).float()
    # Nearest cells at the border tie, and the first of them would win, not the outer one.
    maps[2] = 0
    maps[2, 4:-4, 4:-4] = torch.randint(1, 4000, (40, 56)).float()
    return maps
