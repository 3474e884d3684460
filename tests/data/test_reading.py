"""Pictures and panoptic PNGs: values, EXIF, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from axial_d2.data.reading import DatasetError, MissingFileError, read_image, read_panoptic_png
from panopticapi.utils import id2rgb
from PIL import Image


def test_read_image_swaps_to_bgr(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.array([[[1, 2, 3]]], np.uint8)).save(path)
    assert read_image(str(path), "BGR").tolist() == [[[3, 2, 1]]]
    assert read_image(str(path), "RGB").tolist() == [[[1, 2, 3]]]


def test_read_image_applies_exif_rotation(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(path, exif=exif)
    assert read_image(str(path), "RGB").shape == (8, 4, 3)


def test_panoptic_ids_use_all_24_bits(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255], [256, 65536, 256**3 - 1]])
    path = tmp_path / "x.png"
    Image.fromarray(id2rgb(ids)).save(path)
    read = read_panoptic_png(str(path))
    assert read.tolist() == ids.tolist()
    assert read.dtype == np.int32


@pytest.mark.parametrize("read", [lambda p: read_image(p, "RGB"), read_panoptic_png])
def test_missing_and_damaged_files_are_named(read, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nothing\.png does not exist"):
        read(str(tmp_path / "nothing.png"))
    whole = tmp_path / "whole.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    contents = whole.read_bytes()
    for name, damaged in {
        "empty.png": b"",
        "text.png": b"not a picture",
        "cut.png": contents[: len(contents) // 2],
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DatasetError, match=rf"{name} cannot be decoded"):
            read(str(tmp_path / name))


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_panoptic_png_of_another_mode_is_refused(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.new(mode, (3, 2)).save(path)
    with pytest.raises(DatasetError, match=rf"grey\.png has mode {mode}; it must be RGB"):
        read_panoptic_png(str(path))
