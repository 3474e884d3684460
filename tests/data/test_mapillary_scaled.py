"""Scaled copies of Mapillary Vistas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from axial_d2.data import (
    check_panoptic_dataset,
    read_panoptic_png,
    register_mapillary_vistas,
)
from axial_d2.data.mapillary_pictures import scale_segments, scaled_size
from detectron2.data import DatasetCatalog
from ground_truth_scores import ground_truth_scores
from miniature_mapillary import (
    CLASSES,
    HEIGHT,
    PICTURES,
    WIDTH,
    Release,
    draw,
    edit_json,
    prepare,
    write_release,
)
from PIL import Image

TRAIN, VAL = "mapillary_vistas_v1.2_panoptic_train", "mapillary_vistas_v1.2_panoptic_val"


@pytest.fixture
def v1(tmp_path: Path) -> Release:
    return write_release(tmp_path / "mapillary_vistas")


def test_scaled_size_keeps_the_ratio_and_never_enlarges() -> None:
    assert scaled_size(2448, 3264, 2177) == (1633, 2177)
    assert scaled_size(3264, 2448, 2177) == (2177, 1633)
    assert scaled_size(1080, 1920, 2177) == (1080, 1920)
    assert scaled_size(4000, 3, 100) == (100, 1)
    assert scaled_size(4000, 3000, None) == (4000, 3000)


def test_ids_are_those_under_the_new_pixels_centres() -> None:
    ids = draw(3)
    crowd = {"id": 769, "category_id": 3, "area": 0, "bbox": [], "iscrowd": 1}
    segments = [
        {"id": int(i), "category_id": 2, "area": 0, "bbox": [], "iscrowd": 0}
        for i in np.unique(ids)
        if i != 769
    ]
    height, width = 7, 11
    scaled, remaining = scale_segments(ids, [*segments, crowd], (height, width))
    for row in range(height):
        for column in range(width):
            y, x = (row + 0.5) * HEIGHT / height, (column + 0.5) * WIDTH / width
            assert scaled[row, column] == ids[int(y), int(x)]
    assert {s["id"] for s in remaining} == set(np.unique(scaled).tolist())
    assert [s["iscrowd"] for s in remaining if s["id"] == 769] == [1]
    for segment in remaining:
        rows, columns = np.where(scaled == segment["id"])
        assert segment["area"] == len(rows)
        left, top = columns.min(), rows.min()
        assert segment["bbox"] == [left, top, np.ptp(columns) + 1, np.ptp(rows) + 1]


@pytest.mark.parametrize("panoptic", [True, False])
def test_a_scaled_copy_is_a_data_set(panoptic: bool, tmp_path: Path) -> None:
    release = write_release(tmp_path / "large", panoptic=panoptic)
    output = tmp_path / "small" / "mapillary_vistas"
    for split in ("train", "val"):
        made = prepare(release, split, output=output, max_side=20)
        prepared = made.paths.prepared
        assert not check_panoptic_dataset(
            made.paths.images, prepared.panoptic_root, prepared.panoptic_json
        )
    register_mapillary_vistas(output)
    for record in DatasetCatalog.get(TRAIN):
        assert (record["height"], record["width"]) == (12, 20)
        small = np.asarray(Image.open(record["file_name"])).astype(float)
        large = release.split("train") / "images" / Path(record["file_name"]).name
        blocks = np.asarray(Image.open(large)).astype(float).reshape(12, 2, 20, 2, 3)
        # Within what saving as JPEG changes; a shift of a pixel would change far more.
        assert np.abs(small - blocks.mean((1, 3))).mean() < 8
        ids = read_panoptic_png(record["pan_seg_file_name"])
        classes = np.array(CLASSES)[release.values[record["image_id"]][1::2, 1::2] // 256]
        semantic = np.asarray(Image.open(record["sem_seg_file_name"]))
        np.testing.assert_array_equal(semantic, classes)
        np.testing.assert_array_equal(ids == 0, classes == 255)
    assert ground_truth_scores(VAL) == pytest.approx({"PQ": 100, "mIoU": 100, "AP": 100})


def test_segments_that_vanish_are_counted(tmp_path: Path) -> None:
    release = write_release(tmp_path / "large")
    path = release.panoptic_json("train")
    stem = PICTURES["train"][0]
    png = path.parent / f"{stem}.png"
    pixels = np.array(Image.open(png))
    pixels[0, 0] = (99, 0, 0)  # one pixel, which is under no centre of a picture half the size
    Image.fromarray(pixels).save(png)
    speck = {"id": 99, "category_id": 1, "area": 1, "bbox": [0, 0, 1, 1], "iscrowd": 0}
    edit_json(path, lambda d: d["annotations"][0]["segments_info"].append(speck))
    made = prepare(release, output=tmp_path / "small", max_side=20)
    assert made.vanished == 1
    data = json.loads(made.paths.prepared.panoptic_json.read_text())
    assert 99 not in {s["id"] for s in data["annotations"][0]["segments_info"]}


def test_small_pictures_are_copied(v1: Release, tmp_path: Path) -> None:
    made = prepare(v1, output=tmp_path / "same", max_side=WIDTH)
    for stem in PICTURES["train"]:
        name = f"{stem}.jpg"
        original = v1.split("train") / "images" / name
        assert (made.paths.images / name).read_bytes() == original.read_bytes()
        ids = read_panoptic_png(str(made.paths.prepared.panoptic_root / f"{stem}.png"))
        assert ids.shape == (HEIGHT, WIDTH)
