"""Registration: metadata, dicts, repeated calls, and errors for what is missing or malformed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axial_d2.data import DatasetError, register_demo_dataset, register_panoptic_dataset
from axial_d2.data.categories import class_metadata, generated_color
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from PIL import Image

THINGS_FIRST = {17: 0, 900: 1, 4: 2, 31: 3}


def test_classes_are_things_then_stuff_by_category_id(handmade) -> None:
    register_panoptic_dataset("handmade", **handmade.arguments)
    meta = MetadataCatalog.get("handmade")
    assert meta.thing_classes == ["dog", "cat"]
    assert meta.stuff_classes == ["dog", "cat", "grass", "sky"]
    assert meta.stuff_dataset_id_to_contiguous_id == THINGS_FIRST
    assert meta.thing_dataset_id_to_contiguous_id == {17: 0, 900: 1}
    assert meta.thing_colors == meta.stuff_colors[:2]
    assert meta.stuff_colors[0] == [4, 5, 6]
    assert meta.stuff_colors[3] == [1, 2, 3]
    assert len({tuple(color) for color in meta.stuff_colors}) == 4
    assert (meta.label_divisor, meta.ignore_label) == (1000, 255)
    assert meta.evaluator_type == "coco_panoptic_seg"
    assert meta.panoptic_json == str(handmade.json_path)


def test_generated_colors_differ_and_avoid_given_ones() -> None:
    assert len({tuple(generated_color(i)) for i in range(200)}) == 200
    taken = generated_color(0)
    categories = [
        {"id": 1, "name": "a", "isthing": 1},
        {"id": 2, "name": "b", "isthing": 0, "color": taken},
    ]
    meta = class_metadata(categories)
    assert meta["stuff_colors"][1] == taken
    assert meta["stuff_colors"][0] != taken


def test_dicts(handmade) -> None:
    register_panoptic_dataset("handmade", **handmade.arguments)
    one, two = DatasetCatalog.get("handmade")
    root = handmade.root
    assert one["file_name"] == str(root / "images" / "a" / "one.png")
    assert two["file_name"] == str(root / "images" / "two.jpg")
    assert one["pan_seg_file_name"] == str(root / "png" / "a" / "one.png")
    assert (one["image_id"], one["height"], one["width"]) == (1, 4, 6)
    assert [s["category_id"] for s in one["segments_info"]] == [3, 2, 1, 1]
    assert [s["isthing"] for s in one["segments_info"]] == [False, False, True, True]
    assert one["segments_info"][3] == {
        "id": 7,
        "category_id": 1,
        "isthing": True,
        "iscrowd": 0,
        "area": 3,
        "bbox": [4, 1, 1, 3],
    }
    assert [a["bbox"] for a in one["annotations"]] == [[1, 1, 2, 2], [4, 1, 1, 3]]
    assert all(a["bbox_mode"] is BoxMode.XYWH_ABS for a in one["annotations"])
    assert all(a["category_id"] == 1 and a["iscrowd"] == 0 for a in one["annotations"])
    assert two["annotations"] == []
    assert np.asarray(Image.open(one["sem_seg_file_name"])).tolist() == [
        [3, 3, 3, 3, 3, 255],
        [3, 1, 1, 3, 1, 3],
        [2, 1, 1, 2, 1, 2],
        [2, 2, 2, 2, 1, 2],
    ]


def test_loading_twice_gives_equal_but_separate_dicts(handmade) -> None:
    register_panoptic_dataset("handmade", **handmade.arguments)
    first = DatasetCatalog.get("handmade")
    expected = copy.deepcopy(first)
    first[0]["segments_info"].clear()
    first[0]["annotations"][0]["category_id"] = 99
    assert DatasetCatalog.get("handmade") == expected


def test_detectron2_loader_keeps_images_without_things(handmade) -> None:
    register_panoptic_dataset("handmade", **handmade.arguments)
    assert len(get_detection_dataset_dicts("handmade", filter_empty=False)) == 2
    assert len(get_detection_dataset_dicts("handmade", filter_empty=True)) == 1


def test_demo_dataset_is_registered_as_given(demo_root: Path) -> None:
    assert register_demo_dataset(demo_root, "d") == ["d_train", "d_val"]
    dicts = DatasetCatalog.get("d_train")
    meta = MetadataCatalog.get("d_train")
    assert len(dicts) == 64
    assert meta.json_file == str(demo_root / "annotations" / "instances_train.json")
    for record in dicts:
        for key in ("file_name", "pan_seg_file_name", "sem_seg_file_name"):
            assert Path(record[key]).is_file()
        things = [s for s in record["segments_info"] if s["isthing"]]
        assert [s["bbox"] for s in things] == [a["bbox"] for a in record["annotations"]]
        assert [s["category_id"] for s in things] == [
            a["category_id"] for a in record["annotations"]
        ]
        assert all(s["category_id"] < 5 for s in things)
    assert not list(demo_root.rglob("*.derived"))


def test_registering_again(handmade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_panoptic_dataset("handmade", **handmade.arguments)
    register_panoptic_dataset("handmade", **handmade.arguments)
    monkeypatch.chdir(tmp_path)
    register_panoptic_dataset("handmade", Path("images"), Path("png"), Path("panoptic.json"))
    with pytest.raises(ValueError, match=r"'handmade' is already registered.*another name"):
        register_panoptic_dataset("handmade", **handmade.arguments, ignore_label=254)
    DatasetCatalog.remove("handmade")
    register_panoptic_dataset("handmade", **handmade.arguments, ignore_label=254)
    assert MetadataCatalog.get("handmade").ignore_label == 254


def test_name_of_a_foreign_data_set_is_refused(handmade) -> None:
    DatasetCatalog.register("foreign", lambda: [])
    with pytest.raises(ValueError, match="'foreign' is already registered"):
        register_panoptic_dataset("foreign", **handmade.arguments)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("label_divisor", 1), ("label_divisor", 2.5), ("ignore_label", 3), ("ignore_label", 65536)],
)
def test_numbers_out_of_range(handmade, argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} is {value}"):
        register_panoptic_dataset("handmade", **handmade.arguments, **{argument: value})
    assert "handmade" not in DatasetCatalog


def test_missing_json_is_named(handmade) -> None:
    arguments = {**handmade.arguments, "panoptic_json": "/nowhere/p.json"}
    with pytest.raises(FileNotFoundError, match=r"panoptic_json is '/nowhere/p\.json'"):
        register_panoptic_dataset("handmade", **arguments)
    with pytest.raises(FileNotFoundError, match=r"instances_json is '/nowhere/i\.json'"):
        register_panoptic_dataset(
            "handmade", **handmade.arguments, instances_json="/nowhere/i.json"
        )


def test_missing_demo_dataset_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"make_demo_dataset\.py --output"):
        register_demo_dataset(tmp_path)


@pytest.mark.parametrize("argument", ["image_root", "panoptic_root", "sem_seg_root"])
def test_wrong_root_is_named_when_loading(handmade, argument: str) -> None:
    arguments = {**handmade.arguments, argument: str(handmade.root / "nowhere")}
    register_panoptic_dataset("handmade", **arguments)
    with pytest.raises(DatasetError, match=r"nowhere/a/one\.png does not exist"):
        DatasetCatalog.get("handmade")


def _drop(*path: Any) -> Any:
    def change(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]  # type: ignore[arg-type]

    return change


def _put(value: Any, *path: Any) -> Any:
    def change(data: dict[str, Any]) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


_SEGMENT = ("annotations", 0, "segments_info", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("categories"), "has no 'categories'"),
        (_drop("images"), "has no 'images'"),
        (_put({}, "annotations"), "'annotations' must be a list"),
        (_put([], "annotations"), "'annotations' is empty"),
        (_put([], "images"), "'images' is empty"),
        (_drop("categories", 1, "isthing"), r"categories\[1\] lacks isthing"),
        (_put(2, "categories", 1, "isthing"), "isthing is 2"),
        (_put("red", "categories", 1, "color"), "color is 'red'"),
        (_put(31, "categories", 1, "id"), "category id 31 occurs more than once"),
        (_put(1, "images", 0, "id"), "image id 1 occurs more than once"),
        (_drop("images", 0, "height"), r"images\[0\] lacks height"),
        (_put("4", "images", 0, "height"), "height is '4', which must be int"),
        (_drop("annotations", 0, "segments_info"), r"annotations\[0\] lacks segments_info"),
        (_put(1, "annotations", 1, "image_id"), "annotation of image id 1 occurs more than once"),
        (_put(8, "annotations", 1, "image_id"), r"two\.png belongs to image id 8"),
        (_drop(*_SEGMENT, "iscrowd"), "segment 5 in the annotation of image id 1 lacks iscrowd"),
        (_put(55, *_SEGMENT, "category_id"), "category_id 55, which is not in categories"),
        (_put(12, *_SEGMENT, "id"), "segment id 12 occurs more than once"),
        (_put(0, *_SEGMENT, "id"), "0 is for unlabelled pixels"),
    ],
)
def test_malformed_json_is_refused_at_registration(handmade, change, message: str) -> None:
    change(handmade.data)
    handmade.write_json()
    with pytest.raises(DatasetError, match=message) as error:
        register_panoptic_dataset("handmade", **handmade.arguments)
    assert str(handmade.json_path) in str(error.value)
    assert "handmade" not in DatasetCatalog


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_text_that_is_no_panoptic_json(handmade, text: str) -> None:
    handmade.json_path.write_text(text)
    with pytest.raises(DatasetError, match=r"panoptic\.json"):
        register_panoptic_dataset("handmade", **handmade.arguments)


def _instances(handmade, **changes: Any) -> dict[str, Any]:
    polygon = [[1, 1, 3, 1, 3, 3, 1, 3]]
    annotation = {"id": 1, "image_id": 1, "category_id": 900, "bbox": [1, 1, 2, 2], "area": 4}
    annotation.update(iscrowd=0, segmentation=polygon)
    annotation.update(changes)
    categories = [c for c in handmade.data["categories"] if c["isthing"]]
    return {
        "images": handmade.data["images"],
        "annotations": [annotation],
        "categories": categories,
    }


def _register_with_instances(handmade, data: dict[str, Any]) -> list[dict[str, Any]]:
    path = handmade.root / "instances.json"
    path.write_text(json.dumps(data))
    register_panoptic_dataset("handmade", **handmade.arguments, instances_json=path)
    return DatasetCatalog.get("handmade")


def test_given_instances_are_used(handmade) -> None:
    one, two = _register_with_instances(handmade, _instances(handmade))
    assert one["annotations"] == [
        {
            "bbox": [1, 1, 2, 2],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": 1,
            "iscrowd": 0,
            "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]],
        }
    ]
    assert two["annotations"] == []


def test_instances_that_do_not_fit_are_refused(handmade) -> None:
    other_categories = _instances(handmade)
    other_categories["categories"] = other_categories["categories"][:1]
    other_images = _instances(handmade)
    other_images["images"] = other_images["images"][:1]
    for data, message in (
        (other_categories, r"has the categories \[900\], but the things of"),
        (other_images, "lacks 1 of the images"),
        (_instances(handmade, category_id=31), "category_id 31, which is not a thing"),
        (_instances(handmade, segmentation=[[1, 2, 3, 4]]), "no polygon of three or more points"),
        ({"images": []}, "has no 'categories'"),
    ):
        with pytest.raises(DatasetError, match=message):
            _register_with_instances(handmade, data)


def test_images_without_annotation_are_left_out_and_counted(handmade, caplog) -> None:
    del handmade.data["annotations"][1]
    handmade.write_json()
    register_panoptic_dataset("handmade", **handmade.arguments)
    assert [r["image_id"] for r in DatasetCatalog.get("handmade")] == [1]
    assert "1 images have no annotation" in caplog.text


def test_crowds_keep_their_mark(handmade) -> None:
    handmade.data["annotations"][0]["segments_info"][2]["iscrowd"] = 1
    handmade.write_json()
    register_panoptic_dataset("handmade", **handmade.arguments)
    record = DatasetCatalog.get("handmade")[0]
    assert [s["iscrowd"] for s in record["segments_info"]] == [0, 0, 1, 0]
    assert [a["iscrowd"] for a in record["annotations"]] == [1, 0]
