"""From files of every kind to crops of one size, in training and at test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axial_d2.config import add_axial_deeplab_config
from axial_d2.data import ClassificationMapper, DatasetError, NamingMapper, read_image
from detectron2.config import CfgNode, get_cfg
from PIL import Image

RED, GREEN, BLUE = 0, 1, 2


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_axial_deeplab_config(cfg)
    return cfg


def write(path: Path, pixels: np.ndarray, mode: str | None = None, **options: Any) -> dict:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return {"file_name": str(path), "image_id": path.name, "label": 4}


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_plain_arguments_have_the_defaults_of_the_config(cfg: CfgNode) -> None:
    given, plain = ClassificationMapper(cfg, is_train=True), ClassificationMapper()
    assert repr(given.transforms) == repr(plain.transforms)
    assert repr(ClassificationMapper(cfg, is_train=False).transforms) == repr(
        ClassificationMapper(is_train=False).transforms
    )
    assert (given.image_format, plain.image_format) == ("BGR", "BGR")


def test_every_key_is_used(cfg: CfgNode) -> None:
    node = cfg.INPUT.CLASSIFICATION
    node.CROP_SIZE, node.TEST_SIZE, node.SCALE, node.RATIO = 20, 30, (0.5, 0.6), (1.0, 1.5)
    node.RANDAUGMENT_OPS, node.RANDAUGMENT_MAGNITUDE = 3, 11
    cfg.INPUT.RANDOM_FLIP = "vertical"
    crop, flip, randaugment = ClassificationMapper(cfg, is_train=True).transforms.transforms
    assert (crop.size, crop.scale, crop.ratio) == ((20, 20), (0.5, 0.6), (1.0, 1.5))
    assert type(flip).__name__ == "RandomVerticalFlip"
    assert (randaugment.num_ops, randaugment.magnitude) == (3, 11)
    assert randaugment.num_magnitude_bins == 31
    resize, centre = ClassificationMapper(cfg, is_train=False).transforms.transforms
    assert (resize.size, centre.size) == ([30], (20, 20))


def test_training_crops_have_one_size_and_differ(tmp_path: Path) -> None:
    record = write(tmp_path / "a.png", noise(30, 50))
    mapper = ClassificationMapper(crop_size=16, test_size=16, randaugment_ops=2)
    first, second = mapper(record), mapper(record)
    for mapped in (first, second):
        assert mapped["image"].dtype == torch.uint8
        assert mapped["image"].shape == (3, 16, 16)
        assert {k: v for k, v in mapped.items() if k != "image"} == record
    assert not torch.equal(first["image"], second["image"])
    assert "image" not in record
    torch.manual_seed(9)
    again = mapper(record)["image"]
    torch.manual_seed(9)
    assert torch.equal(mapper(record)["image"], again)


def test_at_test_the_centre_is_cut_from_the_resized_image(tmp_path: Path) -> None:
    pixels = noise(8, 12)
    record = write(tmp_path / "a.png", np.kron(pixels, np.ones((2, 2, 1), np.uint8)))
    mapper = ClassificationMapper(is_train=False, image_format="RGB", crop_size=4, test_size=0)
    expected = torch.from_numpy(np.kron(pixels, np.ones((2, 2, 1), np.uint8))[6:10, 10:14])
    assert torch.equal(mapper(record)["image"], expected.permute(2, 0, 1))

    # 16 x 24 pixels become 8 x 12 by averaging, of which rows 2 to 5 and columns 4 to 7 remain.
    mapper = ClassificationMapper(is_train=False, image_format="RGB", crop_size=4, test_size=8)
    grey = write(tmp_path / "grey.png", np.full((16, 24, 3), 77, np.uint8))
    assert torch.equal(mapper(grey)["image"], torch.full((3, 4, 4), 77, dtype=torch.uint8))
    assert torch.equal(mapper(record)["image"], mapper(record)["image"])
    halved = torch.nn.functional.interpolate(
        torch.from_numpy(read_image(record["file_name"], "RGB").transpose(2, 0, 1).copy())[None],
        (8, 12), mode="bilinear", antialias=True, align_corners=False,
    )[0, :, 2:6, 4:8]  # fmt: skip
    assert torch.equal(mapper(record)["image"], halved)


@pytest.mark.parametrize("is_train", [True, False])
def test_channel_order(tmp_path: Path, is_train: bool) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., RED], pixels[..., BLUE] = 200, 50
    record = write(tmp_path / "a.png", pixels)
    for image_format, expected in (("BGR", [50, 0, 200]), ("RGB", [200, 0, 50])):
        mapper = ClassificationMapper(
            is_train=is_train, image_format=image_format, crop_size=8, test_size=8
        )
        assert mapper(record)["image"][:, 3, 5].tolist() == expected


def test_only_training_mirrors(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255
    record = write(tmp_path / "a.png", pixels)

    def left_ones(**arguments: Any) -> int:
        mapper = ClassificationMapper(crop_size=8, test_size=8, scale=(1, 1), ratio=(1, 1),
                                      **arguments)  # fmt: skip
        return sum(int(mapper(record)["image"][0, 0, 0] == 255) for _ in range(40))

    assert 5 < left_ones(flip="horizontal") < 35
    assert left_ones(flip="vertical") == left_ones(flip="none") == 40
    assert left_ones(flip="horizontal", is_train=False) == 40


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "L"), ("a.png", "P"), ("a.png", "RGBA"), ("a.png", "1"), ("a.jpg", "CMYK"),
     ("a.jpg", "L"), ("a.webp", "RGB"), ("a.bmp", "RGB"), ("a.ppm", "RGB")],
)  # fmt: skip
def test_files_of_other_kinds_become_rgb(tmp_path: Path, name: str, mode: str) -> None:
    record = write(tmp_path / name, noise(8, 8), mode)
    mapper = ClassificationMapper(is_train=False, image_format="RGB", crop_size=8, test_size=0)
    expected = np.asarray(Image.open(record["file_name"]).convert("RGB"))
    assert np.array_equal(mapper(record)["image"].permute(1, 2, 0).numpy(), expected)


def test_exif_orientation(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter clockwise when shown: left becomes top
    record = write(tmp_path / "a.png", pixels, exif=exif)
    image = ClassificationMapper(is_train=False, crop_size=8, test_size=0)(record)["image"]
    assert image[0, :4].min() == 255
    assert image[0, 4:].max() == 0


def test_damaged_and_missing_images_are_named(tmp_path: Path) -> None:
    record = write(tmp_path / "a.png", noise(16, 16))
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[:60])
    mapper = NamingMapper(ClassificationMapper(crop_size=8, test_size=8))
    with pytest.raises(DatasetError, match=rf"{re.escape(str(path))} cannot be decoded as RGB"):
        mapper(record)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{re.escape(str(path))} does not exist"):
        mapper(record)


def test_an_image_smaller_than_the_crop(tmp_path: Path) -> None:
    record = write(tmp_path / "a.png", noise(7, 30))
    with pytest.raises(DatasetError, match=r"a\.png is 7x30 .*CROP_SIZE 8; set .*TEST_SIZE to 8"):
        ClassificationMapper(is_train=False, crop_size=8, test_size=0)(record)
    assert ClassificationMapper(is_train=False, crop_size=8, test_size=8)(record)[
        "image"
    ].shape == (3, 8, 8)
    assert ClassificationMapper(crop_size=8, test_size=0)(record)["image"].shape == (3, 8, 8)


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.CLASSIFICATION.CROP_SIZE", 0, "CROP_SIZE is 0; it must be 1 or more"),
        ("INPUT.CLASSIFICATION.SCALE", (0.0, 1.0), r"SCALE is \(0.0, 1.0\); .* above 0, up to 1"),
        ("INPUT.CLASSIFICATION.SCALE", (0.5, 1.5), r"SCALE is \(0.5, 1.5\)"),
        ("INPUT.CLASSIFICATION.SCALE", (0.5,), r"SCALE is \(0.5,\); it must be two numbers"),
        ("INPUT.CLASSIFICATION.RATIO", (1.5, 0.5), r"RATIO is \(1.5, 0.5\); .*ascending order"),
        ("INPUT.CLASSIFICATION.RANDAUGMENT_OPS", -1, "OPS is -1; it must be 0"),
        ("INPUT.CLASSIFICATION.RANDAUGMENT_MAGNITUDE", 31, "MAGNITUDE is 31; it must be 0 to 30"),
        ("INPUT.CLASSIFICATION.TEST_SIZE", 100, "TEST_SIZE is 100; .*at least CROP_SIZE, 224"),
        ("INPUT.RANDOM_FLIP", "both", r"RANDOM_FLIP is 'both'; it must be one of \('horizontal'"),
        ("INPUT.FORMAT", "L", r"INPUT.FORMAT is 'L'; it must be one of \('BGR', 'RGB'\)"),
    ],
)
def test_values_out_of_range(
    cfg: CfgNode, key: str, value: Any, message: str, is_train: bool
) -> None:
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        ClassificationMapper(cfg, is_train=is_train)
