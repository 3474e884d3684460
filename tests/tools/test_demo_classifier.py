"""tools/demo.py with a classifier: which part of an image it sees, and what it writes into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from axial_d2.data import make_demo_image_folder
from axial_d2.engine.setup import load_config
from axial_d2.visualization import draw_prediction, legible_scale
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image
from tool_modules import load_tool

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "demo" / "classification" / "conv.yaml")


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return load_tool("demo")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    registered = set(DatasetCatalog), set(MetadataCatalog)
    root = tmp_path_factory.mktemp("classifier")
    make_demo_image_folder(root, num_train=10, num_val=10)
    folders = [[f"axial_d2_demo_images_{split}", str(root / split)] for split in ("train", "val")]
    opts = ["DATASETS.IMAGE_FOLDERS", repr(folders), "MODEL.DEVICE", "cpu"]
    DetectionCheckpointer(build_model(load_config(CONFIG, opts)), str(root)).save("model")
    yield [*opts, "MODEL.WEIGHTS", str(root / "model.pth")]
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), registered, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)


def picture(path: Path) -> np.ndarray:
    """[96, 160, 3], whose left and right thirds are of other colours than its centre."""
    pixels = np.full((96, 160, 3), (200, 30, 30), np.uint8)
    pixels[:, 32:128] = (10, 120, 240)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_the_centre_is_seen_in_the_order_of_the_config(
    demo: ModuleType, options: list[str], tmp_path: Path, order: str
) -> None:
    cfg = load_config(CONFIG, [*options, "INPUT.FORMAT", order])
    predictor = demo.StrictPredictor(cfg)
    seen = {}
    predictor.model = lambda inputs: [seen.update(image=inputs[0]["image"]) or {}]
    predictor(picture(tmp_path / "a.png")[:, :, ::-1])
    assert seen["image"].shape == (3, 48, 48)
    image = seen["image"][:, 2:-2, 2:-2]  # where resizing mixes no colours
    colour = (10, 120, 240) if order == "RGB" else (240, 120, 10)
    assert (image.float() - torch.tensor(colour).view(3, 1, 1)).abs().max() <= 1


def test_a_file_and_a_video_are_drawn(demo: ModuleType, options: list[str], tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png")
    arguments = ["--config-file", CONFIG, "--output", str(tmp_path / "out")]
    given = ["--input", str(tmp_path / "a.png"), "--opts", *options]
    assert demo.main([*arguments, *given]) == 0
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    scale = legible_scale(96, 160)
    assert drawn.shape == (scale * 96, scale * 160, 3)
    enlarged = np.kron(pixels, np.ones((scale, scale, 1), np.uint8))
    changed = (np.abs(drawn.astype(int) - enlarged) > 60).any(axis=2)
    assert changed[:, : scale * 80].sum() > 500  # the text, on the left
    assert not changed[:, scale * 90 : scale * 120].any()

    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (160, 96))
    for _ in range(2):
        video.write(pixels)
    video.release()
    given = ["--video-input", str(tmp_path / "v.avi"), "--opts", *options]
    assert demo.main([*arguments, *given]) == 0
    assert list((tmp_path / "out").glob("v.*"))


def test_the_likeliest_classes_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    name = "axial_d2.visualization.pictures.Visualizer.draw_text"
    monkeypatch.setattr(name, lambda self, text, *_, **__: written.append(text))
    logits = torch.tensor([0.5, 0.1, 0.2, 0.05, 0.1, 0.05]).log()
    image = np.zeros((40, 60, 3), np.uint8)
    metadata = Metadata(classes=["ball", "brick", "cross", "grass", "ring", "sky"])
    drawn = draw_prediction(image, {"logits": logits}, metadata, scale=2)
    assert drawn.shape == (80, 120, 3)
    assert written[0].splitlines()[:2] == ["ball 50%", "cross 20%"]
    assert len(written[0].splitlines()) == 5
    draw_prediction(image, {"logits": logits[:2]}, Metadata())
    assert written[1].splitlines()[0] == "class 0 83%"
