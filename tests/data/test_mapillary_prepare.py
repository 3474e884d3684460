"""Preparing Mapillary Vistas: conversion, resuming, scaled copies, incomplete releases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axial_d2.data import (
    DatasetError,
    check_mapillary_split,
    check_panoptic_dataset,
    read_panoptic_png,
    register_mapillary_vistas,
)
from axial_d2.data.mapillary_layout import MapillarySplit
from axial_d2.data.mapillary_prepare import IncompleteReleaseError
from ground_truth_scores import ground_truth_scores
from miniature_mapillary import (
    HEIGHT,
    LAYOUTS,
    PICTURES,
    WIDTH,
    Release,
    prepare,
    write_release,
)
from PIL import Image


@pytest.fixture(params=LAYOUTS)
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    return write_release(tmp_path / "mapillary_vistas", **LAYOUTS[request.param])


@pytest.fixture
def v1(tmp_path: Path) -> Release:
    return write_release(tmp_path / "mapillary_vistas")


def _by_area(path_json: Path, png_root: Path) -> dict[str, list[Any]]:
    """For each picture its segments, as a mask and all but the id, in an order free of ids."""
    result = {}
    data = json.loads(path_json.read_text())
    for annotation in data["annotations"]:
        ids = read_panoptic_png(str(png_root / annotation["file_name"]))
        assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}
        segments = [
            (np.flatnonzero(ids == s["id"]).tolist(), {k: v for k, v in s.items() if k != "id"})
            for s in annotation["segments_info"]
        ]
        result[annotation["image_id"]] = sorted(segments, key=lambda pair: pair[0])
    return {"images": data["images"], "categories": data["categories"], "segments": result}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_conversion_equals_the_panoptic_release(layout: str, tmp_path: Path) -> None:
    by_hand = write_release(tmp_path / "by_hand", **LAYOUTS[layout])
    bare = write_release(tmp_path / "bare", **LAYOUTS[layout], panoptic=False)
    for split in ("train", "val"):
        prepared = prepare(bare, split).paths.prepared
        expected = by_hand.panoptic_json(split)
        assert _by_area(prepared.panoptic_json, prepared.panoptic_root) == _by_area(
            expected, expected.parent
        )
        assert not check_panoptic_dataset(
            bare.split(split) / "images", prepared.panoptic_root, prepared.panoptic_json
        )
    name = register_mapillary_vistas(bare.root, bare.version)[1]
    assert ground_truth_scores(name) == pytest.approx({"PQ": 100, "mIoU": 100, "AP": 100})


def test_released_files_stay_as_they_are(release: Release) -> None:
    before = release.files()
    prepare(release)
    after = release.files()
    assert {name: after[name] for name in before} == before
    new = {Path(name).parts[-2] for name in after.keys() - before.keys() if "lock" not in name}
    assert new == {"prepared", "semantic"}


def test_preparing_again_does_nothing(v1: Release) -> None:
    first = prepare(v1)
    assert (first.pictures, first.resumed, first.vanished) == (2, 0, 0)
    assert not first.paths.prepared.records.exists()
    before = {p: p.stat().st_mtime_ns for p in v1.root.rglob("*") if p.is_file()}
    assert prepare(v1).resumed == 2
    assert {p: p.stat().st_mtime_ns for p in v1.root.rglob("*") if p.is_file()} == before


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    whole = write_release(tmp_path / "whole", panoptic=False)
    prepare(whole)
    stopped = write_release(tmp_path / "stopped", panoptic=False)
    last = stopped.annotations("train") / "instances" / f"{PICTURES['train'][1]}.png"
    sound = last.read_bytes()
    last.write_bytes(sound[:40])
    with pytest.raises(DatasetError, match=f"{last} cannot be decoded"):
        prepare(stopped)
    with pytest.raises(DatasetError, match=r"is unfinished. Run `python tools/prepare_mapillary"):
        register_mapillary_vistas(stopped.root, splits=["train"])

    prepared = MapillarySplit.of(stopped.root, "v1.2", "train").prepared
    with prepared.records.open("a") as file:
        file.write('{"image": {"id": "cut o')
    done = prepared.semantic_root / f"{PICTURES['train'][0]}.png"
    time = done.stat().st_mtime_ns
    last.write_bytes(sound)
    assert prepare(stopped).resumed == 1
    assert done.stat().st_mtime_ns == time
    assert stopped.files() == whole.files()


def test_processes_make_the_same_files(tmp_path: Path) -> None:
    one = write_release(tmp_path / "one", panoptic=False)
    two = write_release(tmp_path / "two", panoptic=False)
    prepare(one, workers=1)
    prepare(two, workers=2)
    assert one.files() == two.files()


def test_nothing_is_overwritten(v1: Release, tmp_path: Path) -> None:
    prepared = MapillarySplit.of(v1.root, "v1.2", "train").prepared
    (prepared.semantic_root).mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"prepared holds files that no run"):
        prepare(v1)
    output = tmp_path / "small"
    (output / "training" / "images").mkdir(parents=True)
    (output / "training" / "images" / "mine.jpg").touch()
    with pytest.raises(FileExistsError, match=r"images holds files that no run"):
        prepare(v1, output=output, max_side=20)
    (output / "config_v1.2.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"is not the label file"):
        prepare(v1, "val", output=output, max_side=20)


def test_other_options_need_another_folder(v1: Release, tmp_path: Path) -> None:
    prepare(v1, output=tmp_path / "small", max_side=20)
    with pytest.raises(FileExistsError, match=r"'max_side': 20.*'max_side': 10"):
        prepare(v1, output=tmp_path / "small", max_side=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_side": 20}, "output and max_side belong together"),
        ({"output": "small"}, "output and max_side belong together"),
        ({"output": "small", "max_side": 0}, "max_side is 0; it must be at least 1"),
    ],
)
def test_arguments(v1: Release, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(v1, **options)
    with pytest.raises(ValueError, match="output is the release itself"):
        prepare(v1, output=v1.root, max_side=20)


def _check(release: Release, split: str = "train") -> list[tuple[str, str]]:
    problems = check_mapillary_split(MapillarySplit.of(release.root, release.version, split))
    return [(p.kind.name, Path(p.file).name) for p in problems]


def test_a_complete_release_has_no_problem(release: Release) -> None:
    assert _check(release) == []
    assert _check(release, "val") == []


def test_missing_files_of_a_panoptic_release(v1: Release) -> None:
    first, second = PICTURES["train"]
    (v1.split("train") / "images" / f"{first}.jpg").unlink()
    (v1.annotations("train") / "panoptic" / f"{second}.png").unlink()
    (v1.split("train") / "images" / "more.jpg").touch()
    missing = [("MISSING_IMAGE", f"{first}.jpg"), ("MISSING_PNG", f"{second}.png")]
    assert _check(v1) == [*missing, ("IMAGE_WITHOUT_ANNOTATION", "more.jpg")]
    with pytest.raises(IncompleteReleaseError, match=r"jpg: does not exist.*\(and 1 more"):
        prepare(v1)
    assert not (v1.annotations("train") / "prepared").exists()


def test_pictures_without_annotation_are_left_out(v1: Release) -> None:
    (v1.split("train") / "images" / "more.jpg").touch()
    assert prepare(v1).pictures == 2


def test_missing_files_of_an_instance_release(tmp_path: Path) -> None:
    release = write_release(tmp_path, panoptic=False)
    first, second = PICTURES["train"]
    (release.split("train") / "images" / f"{first}.jpg").unlink()
    (release.annotations("train") / "instances" / f"{second}.png").unlink()
    assert _check(release) == [
        ("MISSING_IMAGE", f"{first}.jpg"),
        ("MISSING_PNG", f"{second}.png"),
    ]


def test_what_cannot_be_a_ground_truth(v1: Release) -> None:
    v1.panoptic_json("train").unlink()
    assert _check(v1) == [("MALFORMED_JSON", "panoptic_2018.json")]
    for png in (*v1.annotations("train").glob("*/*.png"),):
        png.unlink()
    assert _check(v1) == [("EMPTY_DATASET", "v1.2")]
    (v1.root / "config_v1.2.json").unlink()
    assert _check(v1) == [("MALFORMED_JSON", "config_v1.2.json")]


def test_instance_pngs_that_do_not_fit(tmp_path: Path) -> None:
    release = write_release(tmp_path, panoptic=False)
    png = release.annotations("val") / "instances" / f"{PICTURES['val'][0]}.png"
    Image.fromarray(np.full((HEIGHT, WIDTH), 7 * 256, np.uint16)).save(png)
    with pytest.raises(DatasetError, match=r"has label 7, but .*has labels 0 to 6"):
        prepare(release, "val")
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(png)
    with pytest.raises(DatasetError, match="has mode L; it must be grey with 16 bits"):
        prepare(release, "val")


def test_sizes_that_disagree(v1: Release, tmp_path: Path) -> None:
    image = v1.split("val") / "images" / f"{PICTURES['val'][0]}.jpg"
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(image)
    with pytest.raises(DatasetError, match=rf"{image.name} is 25 × 40 .*should be 24 × 40"):
        prepare(v1, "val", output=tmp_path / "small", max_side=20)
