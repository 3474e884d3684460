"""Crops for semantic segmentation: resized first, then cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from axial_d2.config import add_axial_deeplab_config
from axial_d2.data.semantic_mapper import SemanticMapper
from detectron2.config import get_cfg
from PIL import Image


@pytest.fixture
def record(tmp_path: Path) -> dict:
    """An image whose red is twice its class; classes are columns of 10 pixels."""
    classes = np.tile(np.repeat(np.arange(6, dtype=np.uint8), 10), (40, 1))
    image = np.stack([classes * 2, np.zeros_like(classes), np.zeros_like(classes)], axis=-1)
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(classes).save(tmp_path / "classes.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "classes.png"),
        "height": 40,
        "width": 60,
        "annotations": [{"bbox": [0, 0, 1, 1]}],  # without what Detectron2 would ask for
    }


def mapper(flip: str = "none", shorter_side: int = 80) -> SemanticMapper:
    cfg = get_cfg()
    add_axial_deeplab_config(cfg)
    cfg.INPUT.FORMAT, cfg.INPUT.RANDOM_FLIP = "RGB", flip
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (shorter_side,), 1000
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE = True, "absolute"
    cfg.INPUT.CROP.SIZE = [64, 50]
    return SemanticMapper(cfg, is_train=True)


def test_crops_have_their_size_at_any_scale(record: dict) -> None:
    given = mapper()(record)
    assert given["image"].shape == (3, 64, 50)
    assert given["sem_seg"].shape == (64, 50)
    assert "instances" not in given
    # Columns of 20 pixels now, so 50 pixels see three or four classes.
    assert len(given["sem_seg"].unique()) in (3, 4)


def test_image_and_classes_stay_together(record: dict) -> None:
    for seed in range(6):
        np.random.seed(seed)
        given = mapper("horizontal", shorter_side=40)(record)
        assert given["image"].shape == (3, 40, 50)
        assert torch.equal(given["image"][0].long(), given["sem_seg"] * 2)


def test_mirrored_as_the_config_says(record: dict) -> None:
    def left_to_right(flip: str) -> set[bool]:
        crops = [mapper(flip)(record)["sem_seg"][0] for _ in range(12)]
        return {bool(crop[0] < crop[-1]) for crop in crops}

    assert left_to_right("none") == {True}
    assert left_to_right("horizontal") == {True, False}
    assert left_to_right("vertical") == {True}
