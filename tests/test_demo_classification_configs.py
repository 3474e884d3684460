"""Classifiers for the demo's image folder: their backbones are those of the segmentors beside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from axial_d2.data.synthetic.portraits import PORTRAIT_CLASSES
from axial_d2.engine.checks import check_config
from axial_d2.engine.setup import read_config
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_backbone, build_model

DEMO = Path(__file__).parents[1] / "configs" / "demo"
KINDS = sorted(path.stem for path in (DEMO / "backbones").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    names = [f"axial_d2_demo_images_{split}" for split in ("train", "val")]
    for name in names:
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(classes=PORTRAIT_CLASSES)
    yield
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def load(folder: str, kind: str) -> CfgNode:
    return read_config(str(DEMO / folder / f"{kind}.yaml"), ["MODEL.DEVICE", "cpu"])


def test_every_backbone_of_the_demo_has_a_classifier() -> None:
    files = (DEMO / "classification").glob("*.yaml")
    assert sorted(f.stem for f in files if not f.stem.startswith("Base")) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_builds_for_the_demos_classes(kind: str) -> None:
    cfg = load("classification", kind)
    check_config(cfg)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert model.linear.out_features == len(PORTRAIT_CLASSES)


@pytest.mark.parametrize("kind", KINDS)
def test_the_backbone_is_the_segmentors(kind: str) -> None:
    with torch.device("meta"):
        backbones = [build_backbone(load(f, kind)) for f in ("classification", "backbones")]
    shapes, expected = ({k: v.shape for k, v in b.state_dict().items()} for b in backbones)
    assert shapes == expected
