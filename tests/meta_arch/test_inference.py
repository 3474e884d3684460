"""What a model returns, for every size of image and in any company."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from axial_d2.meta_arch import AxialDeepLab
from torch import Tensor, nn

Build = Callable[..., AxialDeepLab]

NUM_THINGS = 5
# Odd, long, one pixel, below one stride of 4 and of 16, above the table of 6 positions a side.
SIZES = [(32, 48), (33, 47), (7, 90), (1, 1), (3, 2), (15, 16), (150, 130)]


def image(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width) * 255


@torch.no_grad()
def run(model: AxialDeepLab, *inputs: dict) -> list[dict]:
    return model(list(inputs))


def assert_documented(output: dict, size: tuple[int, int]) -> None:
    """The output format of Detectron2's tutorial "Use Models"."""
    assert set(output) == {"panoptic_seg", "sem_seg", "instances"}
    ids, infos = output["panoptic_seg"]
    assert ids.shape == size
    assert ids.dtype == torch.int32
    for info in infos:
        assert set(info) == {"id", "category_id", "isthing", "score", "area"}
        assert info["isthing"] == (info["category_id"] < NUM_THINGS)
        assert 0 <= info["score"] <= 1
        assert (ids == info["id"]).sum() == info["area"]
    assert set(ids.unique().tolist()) - {0} == {info["id"] for info in infos}

    assert output["sem_seg"].shape == (10, *size)
    torch.testing.assert_close(output["sem_seg"].sum(0), torch.ones(size))

    instances = output["instances"]
    assert instances.image_size == size
    things = [info for info in infos if info["isthing"]]
    assert instances.pred_classes.tolist() == [info["category_id"] for info in things]
    assert instances.scores.tolist() == [info["score"] for info in things]
    for mask, info in zip(instances.pred_masks, things, strict=True):
        assert torch.equal(mask, ids == info["id"])


@pytest.mark.parametrize("size", SIZES)
def test_every_size(build: Build, size: tuple[int, int]) -> None:
    model = build("MODEL.PANOPTIC_DEEPLAB.STUFF_AREA", "0")
    (output,) = run(model, {"image": image(*size)})
    assert_documented(output, size)
    assert (output["panoptic_seg"][0] > 0).all(), "nothing is void without a minimum of stuff"


@pytest.mark.parametrize("output_size", [(16, 24), (64, 96), (31, 100), (1, 1)])
def test_the_output_has_the_size_that_the_input_asks_for(
    build: Build, output_size: tuple[int, int]
) -> None:
    height, width = output_size
    (output,) = run(build(), {"image": image(32, 48), "height": height, "width": width})
    assert_documented(output, output_size)


def test_instances_are_there_also_when_there_are_none(build: Build) -> None:
    model = build()
    model.thing_classes = ()
    (output,) = run(model, {"image": image(32, 48)})
    assert len(output["instances"]) == 0
    assert output["instances"].pred_masks.shape == (0, 32, 48)


@pytest.mark.parametrize("divisibility", [0, 32, 33])
def test_a_mixed_batch_equals_one_by_one(build: Build, divisibility: int) -> None:
    # In float64, so that another order of summation tips no pixel.
    model = build("MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY", divisibility).double()
    inputs = [
        {"image": image(32, 48)},
        {"image": image(17, 40), "height": 30, "width": 80},
        {"image": image(32, 48), "height": 16, "width": 24},
        {"image": image(48, 32)},
        {"image": image(17, 40)},
    ]
    together = run(model, *inputs)
    for output, alone in zip(together, inputs, strict=True):
        (expected,) = run(model, alone)
        size = (
            alone.get("height", alone["image"].shape[1]),
            alone.get("width", alone["image"].shape[2]),
        )
        assert_documented(output, size)
        torch.testing.assert_close(output["sem_seg"], expected["sem_seg"])
        assert torch.equal(output["panoptic_seg"][0], expected["panoptic_seg"][0])


class FixedMaps(nn.Module):
    """Stands where a head would, and answers with the given maps."""

    common_stride = 4

    def __init__(self, *maps: Tensor):
        super().__init__()
        self.maps = maps

    def layers(self, _: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.maps[0] if len(self.maps) == 1 else self.maps


@pytest.mark.parametrize("output_size", [None, (32, 64), (64, 128), (16, 96)])
def test_offsets_decide_in_input_pixels_and_at_every_output_size(
    output_size: tuple[int, int] | None,
) -> None:
    """Each half of the image belongs to the centre in the other half."""
    logits = torch.tensor([-9.0, 9.0]).view(1, 2, 1, 1).expand(1, 2, 8, 16)
    heatmap = torch.zeros(1, 1, 8, 16)
    heatmap[0, 0, 1, 2], heatmap[0, 0, 6, 13] = 0.9, 0.5
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(16.0), indexing="ij")
    left = x < 8
    offsets = torch.stack([torch.where(left, 6.0, 1.0) - y, torch.where(left, 13.0, 2.0) - x])
    model = AxialDeepLab(
        backbone=nn.Identity(),
        sem_seg_head=FixedMaps(logits),
        ins_embed_head=FixedMaps(heatmap, offsets[None]),
        pixel_mean=[0.0],
        pixel_std=[1.0],
        thing_classes=[1],
        nms_kernel=3,
    ).eval()
    size = {} if output_size is None else dict(zip(("height", "width"), output_size, strict=True))
    (output,) = run(model, {"image": torch.zeros(1, 32, 64), **size})
    ids, infos = output["panoptic_seg"]
    assert [info["category_id"] for info in infos] == [1, 1]
    quarter = ids.shape[1] // 4
    assert (ids[:, :quarter] == 2).all(), "the left belongs to the lower centre, on the right"
    assert (ids[:, -quarter:] == 1).all()
    assert infos[0]["score"] > infos[1]["score"]


def test_no_image(build: Build) -> None:
    assert build()([]) == []


def test_bytes_and_floats_are_the_same_image(build: Build) -> None:
    model = build()
    pixels = torch.randint(256, (3, 20, 30))
    as_bytes, as_floats = run(model, {"image": pixels.byte()}, {"image": pixels.float()})
    assert torch.equal(as_bytes["sem_seg"], as_floats["sem_seg"])


def test_bfloat16_autocast_is_close_to_float32(build: Build) -> None:
    model = build()
    inputs = {"image": image(40, 56)}
    (expected,) = run(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (output,) = run(model, inputs)
    assert_documented(output, (40, 56))
    assert output["sem_seg"].dtype == torch.float32
    assert (output["sem_seg"] - expected["sem_seg"]).abs().max() < 0.1
    assert (output["sem_seg"] - expected["sem_seg"]).abs().mean() < 0.01


def test_post_processing_settings_reach_the_model(build: Build) -> None:
    node = "MODEL.PANOPTIC_DEEPLAB."
    model = build(
        node + "STUFF_AREA", 7, node + "CENTER_THRESHOLD", 0.3, node + "NMS_KERNEL", 5,
        node + "TOP_K_INSTANCE", 11, node + "SIZE_DIVISIBILITY", 64,
    )  # fmt: skip
    assert (model.stuff_area, model.center_threshold, model.nms_kernel) == (7, 0.3, 5)
    assert (model.top_k, model.size_divisibility) == (11, 64)
    assert model.thing_classes == tuple(range(NUM_THINGS))


def test_stuff_area_and_top_k_have_their_effect(build: Build) -> None:
    inputs = {"image": image(48, 64)}
    model = build("MODEL.PANOPTIC_DEEPLAB.STUFF_AREA", 10**6)
    (output,) = run(model, inputs)
    assert all(info["isthing"] for info in output["panoptic_seg"][1])
    model.top_k, model.center_threshold = 1, -10.0
    (output,) = run(model, inputs)
    assert len(output["instances"]) <= 1
