"""tools/demo.py with ``TEST.AUG.ENABLED``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axial_d2.data import make_demo_dataset, register_demo_dataset
from axial_d2.engine.setup import load_config
from axial_d2.meta_arch import AxialDeepLab, AxialDeepLabWithTTA
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from tool_modules import load_tool

ROOT = Path(__file__).parents[2]


@pytest.fixture
def opts(tmp_path: Path) -> Iterator[list]:
    """That name the data set and the weights of the tiny model."""
    make_demo_dataset(tmp_path, num_train=1, num_val=1, image_scale=0.5)
    names = register_demo_dataset(tmp_path, "tiny")
    config = load_config(str(ROOT / "tests" / "engine" / "tiny.yaml"))
    DetectionCheckpointer(build_model(config), str(tmp_path)).save("model")
    yield ["MODEL.WEIGHTS", str(tmp_path / "model.pth")]
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_demo_augments_where_the_config_says_so(opts: list) -> None:
    demo = load_tool("demo")

    def predictor(*changes):
        config = str(ROOT / "tests" / "engine" / "tiny.yaml")
        return demo.StrictPredictor(demo.predictor_config(config, [*opts, *changes]))

    one = ("TEST.AUG.ENABLED", True, "TEST.AUG.SCALES", (1.0,), "TEST.AUG.FLIP")
    plain, unflipped, flipped = predictor(), predictor(*one, False), predictor(*one, True)
    assert type(plain.model) is AxialDeepLab
    assert type(flipped.model) is AxialDeepLabWithTTA
    image = np.random.default_rng(0).integers(0, 256, (40, 61, 3), np.uint8)
    expected = plain(image)["sem_seg"]
    assert (unflipped(image)["sem_seg"] == expected).all()
    assert (flipped(image)["sem_seg"] != expected).any()
