"""From a dataset dict to training targets; and what is said of files that are wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axial_d2.data import (
    DatasetError,
    NamingMapper,
    PanopticMapper,
    register_demo_dataset,
    register_panoptic_dataset,
)
from axial_d2.data.mapper import _flips
from axial_d2.data.targets import PanopticTargetGenerator
from axial_d2.engine.setup import load_config
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from panopticapi.utils import id2rgb
from PIL import Image

NO_CHANGE = ("INPUT.MIN_SIZE_TRAIN", "(0,)", "INPUT.RANDOM_FLIP", "none")


@pytest.fixture
def cfg_of(demo_root: Path) -> Callable[..., CfgNode]:
    register_demo_dataset(demo_root, "mapped")
    return lambda *opts: load_config("", ["DATASETS.TRAIN", "('mapped_train',)", *opts])


@pytest.fixture
def records(cfg_of: Callable) -> list[dict[str, Any]]:
    return DatasetCatalog.get("mapped_train")


def test_targets_without_augmentation_are_the_ground_truth(
    cfg_of: Callable, records: list[dict]
) -> None:
    mapper = PanopticMapper(cfg_of(*NO_CHANGE))
    for record in records[:6]:
        example = mapper(record)
        size = (record["height"], record["width"])
        assert example["image"].shape == (3, *size)
        assert example["image"].dtype == torch.uint8
        semantic = np.asarray(Image.open(record["sem_seg_file_name"]))
        assert example["sem_seg"].tolist() == semantic.tolist()
        things = sum(segment["isthing"] for segment in record["segments_info"])
        assert len(example["center_points"]) == things
        assert {name: example[name].shape for name in ("center", "sem_seg_weights")} == {
            "center": size,
            "sem_seg_weights": size,
        }
        assert example["offset"].shape == (2, *size)
        assert example["center_weights"].shape == example["offset_weights"].shape == (1, *size)


def test_the_image_is_rgb_as_the_config_says(cfg_of: Callable, records: list[dict]) -> None:
    record = next(r for r in records if r["file_name"].endswith(".png"))
    pixels = np.asarray(Image.open(record["file_name"]).convert("RGB"))
    rgb = PanopticMapper(cfg_of(*NO_CHANGE, "INPUT.FORMAT", "RGB"))(record)["image"]
    bgr = PanopticMapper(cfg_of(*NO_CHANGE, "INPUT.FORMAT", "BGR"))(record)["image"]
    assert rgb.permute(1, 2, 0).tolist() == pixels.tolist()
    assert torch.equal(rgb, bgr.flip(0))


def test_offsets_point_to_their_instances_center(cfg_of: Callable, records: list[dict]) -> None:
    example = PanopticMapper(cfg_of("INPUT.MIN_SIZE_TRAIN", "(77,)"))(records[0])
    height, width = example["sem_seg"].shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pointed_at = torch.stack([y, x]) + example["offset"]
    things = (example["offset_weights"][0] > 0) & (example["sem_seg"] < 5)
    found = {tuple(p) for p in pointed_at[:, things].T.double().numpy().round(2)}
    assert found <= {tuple(p) for p in np.round(example["center_points"], 2)}
    assert len(found) > 1


def test_image_and_targets_are_flipped_and_cropped_together(
    cfg_of: Callable, records: list[dict]
) -> None:
    """Where a pixel's class is known from the picture itself, it moves with the picture."""
    cfg = cfg_of(
        "INPUT.MIN_SIZE_TRAIN", "(0,)",
        "INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "[40, 50]",
    )  # fmt: skip
    record = records[0]
    whole = PanopticMapper(cfg_of(*NO_CHANGE))(record)
    both = torch.cat([whole["image"].long(), whole["sem_seg"][None]])
    windows = both.unfold(1, 40, 1).unfold(2, 50, 1)  # [4, rows, columns, 40, 50]
    mapper, flipped = PanopticMapper(cfg), []
    for _ in range(8):
        example = mapper(record)
        cropped = torch.cat([example["image"].long(), example["sem_seg"][None]])
        matches = [
            bool((windows == c[:, None, None]).all(dim=(3, 4)).all(0).any())
            for c in (cropped, cropped.flip(2))
        ]
        assert any(matches)
        flipped.append(matches[1])
    assert len(set(flipped)) == 2, "flips half of the time"


def test_random_flip_none_flips_never(cfg_of: Callable, records: list[dict]) -> None:
    mapper = PanopticMapper(cfg_of(*NO_CHANGE))
    first = mapper(records[0])["image"]
    assert all(torch.equal(mapper(records[0])["image"], first) for _ in range(10))


def test_equals_detectron2s_mapper_where_there_is_no_crowd(
    cfg_of: Callable, records: list[dict]
) -> None:
    cfg = cfg_of("INPUT.MIN_SIZE_TRAIN", "(90,)")
    for record in records[:3]:
        examples = []
        for mapper_class in (PanopticMapper, PanopticDeeplabDatasetMapper):
            np.random.seed(4)
            examples.append(mapper_class(cfg)(record))
        assert examples[0].keys() == examples[1].keys()
        for name, expected in examples[1].items():
            given = examples[0][name]
            same = torch.equal(given, expected) if torch.is_tensor(given) else given == expected
            assert same, name


def test_the_dataset_dict_is_left_as_it_was(cfg_of: Callable, records: list[dict]) -> None:
    before = copy.deepcopy(records[0])
    PanopticMapper(cfg_of())(records[0])
    assert records[0] == before


PANOPTIC = np.zeros((20, 30), int)
PANOPTIC[2:12, 3:13] = 1
PANOPTIC[8:20, 15:30] = 2


def segment(id_: int, category: int, crowd: bool = False) -> dict[str, Any]:
    return {"id": id_, "category_id": category, "iscrowd": int(crowd)}


def test_a_crowd_region_has_no_center_and_counts_in_no_instance_loss() -> None:
    generator = PanopticTargetGenerator(255, [0, 1], sigma=3)
    targets = generator(PANOPTIC, [segment(1, 0), segment(2, 1, crowd=True)])
    alone = generator(PANOPTIC, [segment(1, 0)])
    assert targets["center_points"] == [[6.5, 7.5]]
    for name in ("center", "offset", "center_weights", "offset_weights", "sem_seg_weights"):
        assert torch.equal(targets[name], alone[name]), name
    assert (targets["sem_seg"][PANOPTIC == 2] == 1).all()
    # Detectron2's own draws a centre there: that this differs is the point.
    theirs = PanopticDeepLabTargetGenerator(255, [0, 1], sigma=3)
    assert len(theirs(PANOPTIC, [segment(1, 0), segment(2, 1, True)])["center_points"]) == 2


def test_a_crowd_region_may_be_ignored_in_the_semantic_loss_too() -> None:
    generator = PanopticTargetGenerator(255, [0, 1], sigma=3, ignore_crowd_in_semantic=True)
    targets = generator(PANOPTIC, [segment(1, 0), segment(2, 1, crowd=True)])
    assert (targets["sem_seg"][PANOPTIC != 1] == 255).all()


def test_iscrowd_may_be_missing() -> None:
    targets = PanopticTargetGenerator(255, [0])(PANOPTIC, [{"id": 1, "category_id": 0}])
    assert len(targets["center_points"]) == 1


@pytest.mark.parametrize("segments", [[], [segment(2, 1)], [segment(2, 1, crowd=True)]])
def test_an_image_without_any_thing(segments: list[dict]) -> None:
    targets = PanopticTargetGenerator(255, [0], ignore_stuff_in_offset=True)(PANOPTIC, segments)
    assert targets["center_points"] == []
    assert not targets["center"].any()
    assert not targets["offset_weights"].any()


def handmade_cfg(handmade: Any) -> CfgNode:
    register_panoptic_dataset("handmade", **handmade.arguments)
    return load_config("", ["DATASETS.TRAIN", "('handmade',)", *NO_CHANGE])


def test_a_file_that_vanished_is_named(handmade: Any) -> None:
    mapper = PanopticMapper(handmade_cfg(handmade))
    record = DatasetCatalog.get("handmade")[0]
    Path(record["file_name"]).unlink()
    with pytest.raises(DatasetError, match=rf"{record['file_name']} does not exist"):
        mapper(record)


def test_an_image_that_cannot_be_decoded_is_named(handmade: Any) -> None:
    mapper = PanopticMapper(handmade_cfg(handmade))
    record = DatasetCatalog.get("handmade")[0]
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DatasetError, match=rf"{record['file_name']} cannot be decoded"):
        mapper(record)


def test_a_panoptic_png_that_cannot_be_decoded_is_named(handmade: Any) -> None:
    mapper = PanopticMapper(handmade_cfg(handmade))
    record = DatasetCatalog.get("handmade")[0]
    Path(record["pan_seg_file_name"]).write_text("not a picture")
    with pytest.raises(DatasetError, match=rf"{record['pan_seg_file_name']} cannot be decoded"):
        mapper(record)


def test_a_png_of_another_size_is_named_with_both_sizes(handmade: Any) -> None:
    mapper = PanopticMapper(handmade_cfg(handmade))
    record = DatasetCatalog.get("handmade")[0]
    Image.fromarray(id2rgb(np.full((5, 6), 12))).save(record["pan_seg_file_name"])
    with pytest.raises(DatasetError, match=r"is 5x6 pixels \(height x width\).* 4x6") as error:
        mapper(record)
    assert record["file_name"] in str(error.value)


def test_an_image_of_another_size_than_the_json_says_is_named(handmade: Any) -> None:
    mapper = NamingMapper(PanopticMapper(handmade_cfg(handmade)))
    record = {**DatasetCatalog.get("handmade")[0], "height": 9}
    with pytest.raises(DatasetError, match=rf"{record['file_name']} cannot be used.*Mismatch"):
        mapper(record)


def test_naming_mapper_names_the_image_whatever_goes_wrong() -> None:
    def fail(_: dict) -> dict:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(DatasetError, match=r"a/b.jpg cannot be used: ZeroDivisionError") as error:
        NamingMapper(fail)({"file_name": "a/b.jpg"})
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    with pytest.raises(DatasetError, match="an image without file_name"):
        NamingMapper(fail)({})


def test_naming_mapper_changes_nothing_else(cfg_of: Callable, records: list[dict]) -> None:
    assert NamingMapper(lambda record: None)({}) is None
    mapper = PanopticMapper(cfg_of(*NO_CHANGE))
    assert torch.equal(NamingMapper(mapper)(records[0])["image"], mapper(records[0])["image"])


def test_unknown_flip_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"RANDOM_FLIP is 'diagonal'.*horizontal.*vertical.*none"):
        _flips("diagonal")


def test_vertical_flip_is_vertical() -> None:
    (flip,) = _flips("vertical")
    assert (flip.vertical, flip.horizontal) == (True, False)
