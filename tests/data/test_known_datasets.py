"""Data sets that a config names without saying where they lie."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from axial_d2.data import register_known_datasets, register_mapillary_vistas
from axial_d2.engine.checks import check_config
from axial_d2.engine.setup import load_config
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from miniature_mapillary import Release, write_release

TRAIN, VAL = "mapillary_vistas_v1.2_panoptic_train", "mapillary_vistas_v1.2_panoptic_val"


@pytest.fixture
def v1(tmp_path: Path) -> Release:
    return write_release(tmp_path / "mapillary_vistas")


def _config(*opts: Any) -> CfgNode:
    names = ["DATASETS.TRAIN", f"('{TRAIN}',)", "DATASETS.TEST", f"('{VAL}',)"]
    return load_config("", [*names, "MODEL.DEVICE", "cpu", *map(str, opts)])


def test_a_config_finds_the_data_set_by_name(v1: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(v1.root.parent))
    _config()
    assert len(DatasetCatalog.get(TRAIN)) == 2
    monkeypatch.setenv("DETECTRON2_DATASETS", "elsewhere")
    _config()  # stays what it is
    assert MetadataCatalog.get(VAL).image_root == str(v1.split("val") / "images")


def test_the_default_folder_is_detectron2s(v1: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(v1.root.parent)
    v1.root.parent.joinpath("datasets").mkdir()
    v1.root.rename(v1.root.parent / "datasets" / "mapillary_vistas")
    _config()
    assert len(DatasetCatalog.get(TRAIN)) == 2


def test_a_missing_data_set_may_be_named_but_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = _config("MODEL.META_ARCHITECTURE", "AxialDeepLab")
    message = r"holds no config_v1\.2\.json.*DETECTRON2_DATASETS names, now"
    with pytest.raises(FileNotFoundError, match=message):
        check_config(cfg)
    with pytest.raises(FileNotFoundError, match=message):
        DatasetCatalog.get(TRAIN)
    with pytest.raises(FileNotFoundError, match=message):
        MetadataCatalog.get(VAL).get("thing_classes")
    assert copy.deepcopy(MetadataCatalog.get(VAL)).name == VAL

    write_release(tmp_path / "mapillary_vistas")
    _config()
    assert len(DatasetCatalog.get(TRAIN)) == 2
    assert MetadataCatalog.get(VAL).thing_classes == ["Bird", "Car"]


def test_a_stand_in_gives_way_to_a_registration(v1: Release, tmp_path: Path) -> None:
    register_known_datasets([TRAIN, VAL, "unknown"], str(tmp_path / "nowhere"))
    assert "unknown" not in DatasetCatalog
    register_mapillary_vistas(v1.root)
    assert len(DatasetCatalog.get(TRAIN)) == 2
