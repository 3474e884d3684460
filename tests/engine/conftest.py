"""A tiny config, two tiny data sets, and loggers that no test leaves changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axial_d2  # noqa: F401  bridges an old Detectron2, so it comes before the rest
import numpy as np
import pytest
from axial_d2.data import make_demo_dataset, register_demo_dataset
from axial_d2.engine import Trainer
from axial_d2.engine.setup import load_config
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image

TINY_CONFIG = str(Path(__file__).with_name("tiny.yaml"))


@pytest.fixture(autouse=True)
def _quiet_detectron2() -> Iterator[None]:
    """Keeps trainers from adding handlers to Detectron2's logger, which propagates to pytest's."""
    logger = logging.getLogger("detectron2")
    state = (logger.level, logger.propagate, list(logger.handlers))
    logger.setLevel(logging.INFO)
    yield
    logger.level, logger.propagate, logger.handlers = state


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    names = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    make_demo_dataset(root, seed=5, num_train=6, num_val=2)
    return root


@pytest.fixture
def tiny_cfg(demo_files: Path, tmp_path: Path) -> Callable[..., CfgNode]:
    """``tiny_cfg(KEY, VALUE, …)``: the tiny config on ``tiny_train`` and ``tiny_val``."""
    register_demo_dataset(demo_files, "tiny")

    def make(*opts) -> CfgNode:
        return load_config(TINY_CONFIG, ["OUTPUT_DIR", str(tmp_path / "out"), *opts])

    return make


@pytest.fixture
def fixed_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Iteration i sees the same pictures in every run: Detectron2's sampler restarts anew."""
    monkeypatch.setattr(Trainer, "test", classmethod(lambda cls, cfg, model: {}))
    load = Trainer.build_train_loader.__func__
    batches: list[Any] = []

    def build(cls, cfg: CfgNode) -> Iterator[Any]:
        if not batches:
            pictures = iter(load(cls, cfg))
            batches.extend(next(pictures) for _ in range(cfg.SOLVER.MAX_ITER))
        checkpoint = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
        start = 3 if checkpoint.exists() else 0
        return iter(batches[start:])

    monkeypatch.setattr(Trainer, "build_train_loader", classmethod(build))


CATEGORIES = [
    {"id": 1, "name": "box", "isthing": 1},
    {"id": 2, "name": "ground", "isthing": 0},
]


@pytest.fixture
def write_boxes(tmp_path: Path) -> Callable[..., list[str]]:
    """``write_boxes(number, size)``: boxes of any size on a ground, all pictures of one size.

    Returns an entry of ``DATASETS.PANOPTIC``, named "boxes".
    """

    def write(number: int, size: tuple[int, int] = (32, 48)) -> list[str]:
        root = tmp_path / "boxes"
        rng = np.random.default_rng(7)
        images, annotations = [], []
        for folder in ("images", "png"):
            (root / folder).mkdir(parents=True)
        for index in range(1, number + 1):
            ids = np.full(size, 2)
            top, left, height, width = rng.integers(4, min(size) // 2, 4)
            ids[top : top + height, left : left + width] = 1
            pixels = rng.integers(0, 120, (*size, 3), np.uint8) + (ids == 1)[..., None] * 100
            name = f"{index}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / name)
            Image.fromarray(id2rgb(ids)).save(root / "png" / name)
            images.append({"id": index, "file_name": name, "height": size[0], "width": size[1]})
            annotations.append(
                {"image_id": index, "file_name": name, "segments_info": _segments(ids)}
            )
        data = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "panoptic.json").write_text(json.dumps(data))
        return ["boxes", str(root / "images"), str(root / "png"), str(root / "panoptic.json")]

    return write


def _segments(ids: np.ndarray) -> list[dict[str, Any]]:
    segments = []
    for id_ in np.unique(ids).tolist():
        rows, columns = np.where(ids == id_)
        top, left = int(rows.min()), int(columns.min())
        segments.append(
            {
                "id": id_,
                "category_id": id_,
                "area": len(rows),
                "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
                "iscrowd": 0,
            }
        )
    return segments
