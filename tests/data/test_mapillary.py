"""Mapillary Vistas: classes, registration, and release files that are missing or disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axial_d2.data import DatasetError, register_mapillary_vistas
from axial_d2.data.mapillary_labels import read_label_file
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.evaluation import COCOPanopticEvaluator
from ground_truth_scores import evaluate, ground_truth_scores, panoptic_output
from miniature_mapillary import (
    CLASSES,
    LAYOUTS,
    PICTURES,
    Release,
    edit_json,
    prepare,
    write_release,
)
from PIL import Image

TRAIN, VAL = "mapillary_vistas_v1.2_panoptic_train", "mapillary_vistas_v1.2_panoptic_val"


@pytest.fixture(params=LAYOUTS)
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    return write_release(tmp_path / "mapillary_vistas", **LAYOUTS[request.param])


@pytest.fixture
def v1(tmp_path: Path) -> Release:
    return write_release(tmp_path / "mapillary_vistas")


def test_classes_come_from_the_label_file(release: Release) -> None:
    names = register_mapillary_vistas(release.root, release.version)
    prefix = f"mapillary_vistas_{release.version}_panoptic"
    assert names == [f"{prefix}_train", f"{prefix}_val"]
    metadata = MetadataCatalog.get(names[0])
    assert metadata.thing_classes == ["Bird", "Car"]
    assert metadata.stuff_classes == ["Bird", "Car", "Sky", "Terrain"]
    assert metadata.stuff_colors[2] == [70, 130, 180]
    assert metadata.stuff_dataset_id_to_contiguous_id == {1: 0, 3: 1, 2: 2, 4: 3}
    assert (metadata.ignore_label, metadata.label_divisor) == (255, 1000)
    assert register_mapillary_vistas(release.root, release.version) == names


@pytest.mark.parametrize("prepared", [False, True])
def test_ground_truth_scores_100(release: Release, prepared: bool) -> None:
    if prepared:
        prepare(release, "val")
    (name,) = register_mapillary_vistas(release.root, release.version, ["val"])
    records = get_detection_dataset_dicts(name, filter_empty=False)
    assert [r["image_id"] for r in records] == PICTURES["val"]
    for record in records:
        semantic = np.asarray(Image.open(record["sem_seg_file_name"]))
        values = release.values[record["image_id"]]
        np.testing.assert_array_equal(semantic, np.array(CLASSES)[values // 256])
        assert ("prepared" in record["sem_seg_file_name"]) == prepared
    assert ground_truth_scores(name) == pytest.approx({"PQ": 100, "mIoU": 100, "AP": 100})


def test_a_wrong_prediction_scores_less(v1: Release) -> None:
    register_mapillary_vistas(v1.root)
    records = DatasetCatalog.get(VAL)
    outputs = [panoptic_output(record) for record in records]
    for _, segments in (output["panoptic_seg"] for output in outputs):
        for segment in segments:
            if segment["isthing"]:
                segment["category_id"] = 1 - segment["category_id"]
    result = evaluate(COCOPanopticEvaluator(VAL), records, outputs)["panoptic_seg"]
    assert result["PQ_th"] == 0
    assert result["PQ_st"] == pytest.approx(100)


def test_what_is_missing_is_named(v1: Release, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"version 'v3' of Mapillary Vistas is unknown.*v1\.2 or"):
        register_mapillary_vistas(v1.root, "v3")
    with pytest.raises(FileNotFoundError, match=r"holds no config_v2\.0\.json.*Unpack"):
        register_mapillary_vistas(v1.root, "v2.0")
    with pytest.raises(FileNotFoundError, match=r"config_v1\.2\.json or config\.json"):
        register_mapillary_vistas(tmp_path / "elsewhere")
    v1.panoptic_json("train").unlink()
    with pytest.raises(FileNotFoundError, match=r"panoptic_2018\.json does not.*prepare_mapillary"):
        register_mapillary_vistas(v1.root)
    assert TRAIN not in DatasetCatalog


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["labels"][2].pop("evaluate"), r"labels\[2\] is wrong: evaluate is missing"),
        (lambda d: d["labels"][0].update(instances="yes"), r"labels\[0\] is wrong: instances is"),
        (lambda d: d["labels"].__setitem__(1, "Car"), r"labels\[1\] is 'Car'"),
        (lambda d: d.pop("labels"), "no list 'labels', so it is no label file"),
    ],
)
def test_malformed_label_files(v1: Release, change: Any, message: str) -> None:
    path = v1.root / "config_v1.2.json"
    edit_json(path, change)
    with pytest.raises(DatasetError, match=message) as error:
        read_label_file(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop(), r"config_v1\.2\.json has the category 4 \('Terrain'\), which .*2018"),
        (lambda c: c.append({**c[0], "id": 9}), r"2018\.json has the category 9 .*config_v1"),
        (lambda c: c[0].update(name="Cat"), "category 1 is 'Cat'.*'Bird'"),
        (lambda c: c[1].update(isthing=1), "category 2 is 'Sky' with isthing 1.*isthing 0"),
    ],
)
def test_json_of_another_version(v1: Release, change: Any, message: str) -> None:
    def change_data(data: dict[str, Any]) -> None:
        change(data["categories"])
        data["annotations"] = [{**a, "segments_info": []} for a in data["annotations"]]

    edit_json(v1.panoptic_json("val"), change_data)
    register_mapillary_vistas(v1.root)
    with pytest.raises(DatasetError, match=message):
        DatasetCatalog.get(VAL)
    with pytest.raises(DatasetError, match=message):
        prepare(v1, "val")


def test_full_names_in_the_json_are_fine(v1: Release) -> None:
    def use_full_names(data: dict[str, Any]) -> None:
        for category in data["categories"]:
            category["name"] = category["supercategory"]

    edit_json(v1.panoptic_json("val"), use_full_names)
    register_mapillary_vistas(v1.root)
    assert len(DatasetCatalog.get(VAL)) == 2


def test_another_root_under_a_name_is_refused(v1: Release, tmp_path: Path) -> None:
    register_mapillary_vistas(v1.root)
    other = write_release(tmp_path / "other")
    with pytest.raises(ValueError, match=r"already registered.*DatasetCatalog\.remove"):
        register_mapillary_vistas(other.root)
