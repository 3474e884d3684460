"""Derived instances and semantic PNGs: equal to given ones, made once, made again when outdated."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from axial_d2.data import DatasetError, register_demo_dataset, register_panoptic_dataset
from axial_d2.data import derived as derived_module
from axial_d2.data.derived import ensure_derived
from axial_d2.data.synthetic import SplitPaths
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image


def _ensure(handmade, ignore_label: int = 255) -> derived_module.DerivedFiles:
    arguments = handmade.arguments
    return ensure_derived(arguments["panoptic_json"], arguments["panoptic_root"], ignore_label)


def test_derived_equals_the_demo_sets_own_files(demo_root: Path, tmp_path: Path) -> None:
    register_demo_dataset(demo_root, "given")
    paths = SplitPaths.of(demo_root, "val")
    copy = tmp_path / "panoptic_val.json"
    copy.write_bytes(paths.panoptic_json.read_bytes())
    register_panoptic_dataset("derived", paths.images, paths.panoptic, copy)
    pairs = zip(DatasetCatalog.get("given_val"), DatasetCatalog.get("derived"), strict=True)
    for given, derived in pairs:
        given_semantic = np.asarray(Image.open(given.pop("sem_seg_file_name")))
        derived_semantic = np.asarray(Image.open(derived.pop("sem_seg_file_name")))
        np.testing.assert_array_equal(derived_semantic, given_semantic)
        assert derived == given
    given_json = json.loads(paths.instances_json.read_text())
    derived_json = json.loads(Path(MetadataCatalog.get("derived").json_file).read_text())
    for key in ("images", "annotations", "categories"):
        assert derived_json[key] == given_json[key]


def test_masks_are_the_segments_pixels(handmade) -> None:
    data = json.loads(Path(_ensure(handmade).instances_json).read_text())
    assert [a["area"] for a in data["annotations"]] == [4, 3]
    assert [a["id"] for a in data["annotations"]] == [1, 2]
    for annotation, segment_id in zip(data["annotations"], (5, 7), strict=True):
        mask = mask_util.decode(annotation["segmentation"])
        np.testing.assert_array_equal(mask, handmade.one == segment_id)


def test_nothing_is_derived_before_it_is_needed(handmade) -> None:
    register_panoptic_dataset("handmade", **handmade.arguments)
    folder = handmade.root / "panoptic.derived"
    assert not folder.exists()
    assert MetadataCatalog.get("handmade").json_file == str(folder / "instances.json")
    assert (folder / "instances.json").is_file()
    assert MetadataCatalog.get("handmade").sem_seg_root == str(folder / "semantic")


def test_made_once_and_again_when_a_source_changes(handmade, monkeypatch) -> None:
    built = []
    build = derived_module._build
    monkeypatch.setattr(
        derived_module, "_build", lambda *arguments: (built.append(1), build(*arguments))
    )
    files = _ensure(handmade)
    _ensure(handmade)
    assert len(built) == 1
    handmade.write_png("two.png", np.full((3, 5), 0))
    assert _ensure(handmade) == files
    assert len(built) == 2
    semantic = np.asarray(Image.open(Path(files.semantic_root) / "two.png"))
    assert np.unique(semantic).tolist() == [255]
    handmade.data["annotations"][0]["segments_info"][2]["category_id"] = 17
    handmade.write_json()
    _ensure(handmade)
    assert len(built) == 3
    instances = json.loads(Path(files.instances_json).read_text())["annotations"]
    assert [a["category_id"] for a in instances] == [17, 900]
    _ensure(handmade, ignore_label=200)
    assert len(built) == 4


def test_racing_readers_build_once_and_all_see_it_whole(handmade, monkeypatch) -> None:
    built = []
    build = derived_module._build
    monkeypatch.setattr(
        derived_module, "_build", lambda *arguments: (built.append(1), build(*arguments))
    )
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: _ensure(handmade), range(4)))
    assert len(built) == 1
    assert len(set(files)) == 1


def test_failure_leaves_nothing_behind(handmade) -> None:
    (handmade.root / "png" / "two.png").write_bytes(b"damaged")
    before = sorted(p.name for p in handmade.root.iterdir())
    with pytest.raises(DatasetError, match=r"two\.png cannot be decoded"):
        _ensure(handmade)
    after = sorted(p.name for p in handmade.root.iterdir() if p.suffix != ".lock")
    assert after == before


def test_png_of_another_size_is_named(handmade) -> None:
    handmade.write_png("two.png", np.full((3, 4), 12))
    with pytest.raises(DatasetError, match=r"two\.png is 3 × 4.*gives 3 × 5 for image id 2"):
        _ensure(handmade)


def test_cache_folder_where_the_json_cannot_be_written(handmade, monkeypatch, tmp_path) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(derived_module, "get_cache_dir", lambda: str(cache))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    files = _ensure(handmade)
    assert cache in files.folder.parents
    assert Path(files.instances_json).is_file()
    assert _ensure(handmade) == files


def test_ignore_label_above_255_gives_16_bits(handmade) -> None:
    files = _ensure(handmade, ignore_label=4000)
    semantic = np.asarray(Image.open(Path(files.semantic_root) / "a" / "one.png"))
    assert semantic[0, 5] == 4000
    assert semantic[0, 0] == 3


def test_segments_that_the_png_lacks_are_reported(handmade, caplog) -> None:
    handmade.write_png("a/one.png", np.where(handmade.one == 7, 12, handmade.one))
    files = _ensure(handmade)
    assert len(json.loads(Path(files.instances_json).read_text())["annotations"]) == 1
    assert "[7]" in caplog.text
    assert "check_dataset" in caplog.text
