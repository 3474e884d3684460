"""A demo set and a hand-made data set, and catalogues that forget what a test registered."""

from __future__ import annotations

import axial_d2  # noqa: F401  bridges an old Detectron2, so it comes before the rest

# isort: split
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axial_d2.data import make_demo_dataset
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image
from tool_modules import load_tool


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    datasets, metadata = set(DatasetCatalog), set(MetadataCatalog)
    yield
    for name in set(DatasetCatalog) - datasets:
        DatasetCatalog.remove(name)
    for name in set(MetadataCatalog) - metadata:
        MetadataCatalog.remove(name)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 training and 24 validation pictures: enough for every kind that the index prescribes."""
    root = tmp_path_factory.mktemp("demo")
    assert make_demo_dataset(root, seed=3, num_train=64, num_val=24)
    return root


@pytest.fixture
def make_demo_dataset_main() -> Callable[[list[str]], int]:
    return load_tool("make_demo_dataset").main


@pytest.fixture
def check_dataset_main() -> Callable[[list[str]], int]:
    return load_tool("check_dataset").main


@dataclass
class HandmadeDataset:
    """Two pictures: ``a/one.png`` (2 stuff, 2 things, a void pixel), ``two.jpg`` (1 stuff)."""

    root: Path
    data: dict[str, Any]
    one: np.ndarray  # the segment ids of a/one.png
    two: np.ndarray

    @property
    def json_path(self) -> Path:
        return self.root / "panoptic.json"

    @property
    def arguments(self) -> dict[str, str]:
        return {
            "image_root": str(self.root / "images"),
            "panoptic_root": str(self.root / "png"),
            "panoptic_json": str(self.json_path),
        }

    def write_json(self) -> None:
        self.json_path.write_text(json.dumps(self.data), encoding="utf-8")

    def write_png(self, name: str, id_map: np.ndarray) -> None:
        path = self.root / "png" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(id2rgb(id_map)).save(path)


# 4 × 6 pixels: the cats 5 and 7, grass 12, sky 70000, and a pixel without a label.
_ONE = np.array(
    [
        [70000, 70000, 70000, 70000, 70000, 0],
        [70000, 5, 5, 70000, 7, 70000],
        [12, 5, 5, 12, 7, 12],
        [12, 12, 12, 12, 7, 12],
    ]
)
_TWO = np.full((3, 5), 12)


def _segment(id_: int, category_id: int, area: int, bbox: list[int]) -> dict[str, Any]:
    return {"id": id_, "category_id": category_id, "area": area, "bbox": bbox, "iscrowd": 0}


@pytest.fixture
def handmade(tmp_path: Path) -> HandmadeDataset:
    categories = [
        {"id": 31, "name": "sky", "isthing": 0, "color": [1, 2, 3]},
        {"id": 900, "name": "cat", "isthing": 1},
        {"id": 4, "name": "grass", "isthing": 0},
        {"id": 17, "name": "dog", "isthing": 1, "color": [4, 5, 6]},
    ]
    images = [
        {"id": 2, "file_name": "two.jpg", "height": 3, "width": 5},
        {"id": 1, "file_name": "a/one.png", "height": 4, "width": 6},
    ]
    one = [
        _segment(70000, 31, 8, [0, 0, 6, 2]),
        _segment(12, 4, 8, [0, 2, 6, 2]),
        _segment(5, 900, 4, [1, 1, 2, 2]),
        _segment(7, 900, 3, [4, 1, 1, 3]),
    ]
    two = [_segment(12, 4, 15, [0, 0, 5, 3])]
    annotations = [
        {"image_id": 1, "file_name": "a/one.png", "segments_info": one},
        {"image_id": 2, "file_name": "two.png", "segments_info": two},
    ]
    data = {"images": images, "annotations": annotations, "categories": categories}
    dataset = HandmadeDataset(tmp_path, data, _ONE, _TWO)
    (tmp_path / "images" / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for image in images:
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / image["file_name"])
    dataset.write_png("a/one.png", _ONE)
    dataset.write_png("two.png", _TWO)
    dataset.write_json()
    return dataset
