"""Detectron2's predictor, visualizer and evaluators take the outputs as they are."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from axial_d2.evaluation import build_evaluators
from axial_d2.meta_arch import AxialDeepLab
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    SemSegEvaluator,
    inference_on_dataset,
)
from detectron2.utils.visualizer import Visualizer
from PIL import Image

Build = Callable[..., AxialDeepLab]
MakeCfg = Callable[..., CfgNode]


@pytest.mark.parametrize("finds_things", [True, False], ids=["things", "no thing"])
def test_all_coco_evaluators(
    tiny_cfg: MakeCfg, build: Build, tiny_dataset: str, tmp_path: Path, finds_things: bool
) -> None:
    cfg, model = tiny_cfg(), build()
    if not finds_things:
        model.sem_seg_head.predictor.bias.data[:5] = -100
    evaluators = build_evaluators(cfg, tiny_dataset, str(tmp_path))
    kinds = [type(evaluator) for evaluator in evaluators._evaluators]
    assert kinds == [COCOPanopticEvaluator, SemSegEvaluator, COCOEvaluator]
    results = inference_on_dataset(
        model, build_detection_test_loader(cfg, tiny_dataset), evaluators
    )
    assert set(results) >= {"panoptic_seg", "sem_seg"}
    assert set(results["panoptic_seg"]) >= {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"}
    assert 0 <= results["sem_seg"]["mIoU"] <= 100
    if finds_things:
        assert {"AP", "AP50"} <= set(results["bbox"])
        assert {"AP", "AP50"} <= set(results["segm"])


@pytest.fixture
def predictor(tiny_cfg: MakeCfg, build: Build) -> DefaultPredictor:
    predictor = DefaultPredictor(tiny_cfg())
    predictor.model = build()
    return predictor


def test_default_predictor_and_visualizer(predictor: DefaultPredictor, tiny_dataset: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)
    outputs = predictor(image)
    ids, infos = outputs["panoptic_seg"]
    assert ids.shape == image.shape[:2]
    assert infos
    visualizer = Visualizer(image, MetadataCatalog.get(tiny_dataset))
    drawn = visualizer.draw_panoptic_seg(ids, infos).get_image()
    assert drawn.shape == image.shape
    assert (drawn != image).any()
    visualizer.draw_instance_predictions(outputs["instances"].to("cpu"))
    visualizer.draw_sem_seg(outputs["sem_seg"].argmax(0))


def test_the_visualizer_names_what_the_model_meant(
    build: Build, tiny_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[str] = []
    monkeypatch.setattr(
        Visualizer, "draw_text", lambda self, text, *args, **kwargs: labels.append(text)
    )
    metadata = MetadataCatalog.get(tiny_dataset)
    image = torch.rand(3, 48, 64) * 255
    with torch.no_grad():
        (output,) = build("MODEL.PANOPTIC_DEEPLAB.STUFF_AREA", "0")([{"image": image}])
    ids, infos = output["panoptic_seg"]
    visualizer = Visualizer(np.zeros((48, 64, 3), np.uint8), metadata)
    visualizer.draw_panoptic_seg(ids, infos)
    drawn = {label.split(" ")[0] for label in labels}
    assert drawn == {metadata.stuff_classes[info["category_id"]].split(" ")[0] for info in infos}


def test_predictor_takes_a_config_that_wants_rgb(predictor: DefaultPredictor) -> None:
    assert predictor.input_format == "RGB"


# What cityscapesscripts.helpers.labels holds, for the classes of the demo data set.
Label = namedtuple("Label", ["name", "id", "trainId", "ignoreInEval"])


@pytest.fixture
def cityscapes_labels(tiny_dataset: str, monkeypatch: pytest.MonkeyPatch) -> list[Label]:
    """Stands in for the Cityscapes package, whose labels are all that ``process`` needs."""
    names = MetadataCatalog.get(tiny_dataset).stuff_classes
    labels = [Label(name, 20 + index, index, False) for index, name in enumerate(names)]
    labels.append(Label("unlabeled", 0, 255, True))
    module = ModuleType("cityscapesscripts.helpers.labels")
    module.name2label = {label.name: label for label in labels}
    module.trainId2label = {label.trainId: label for label in labels}
    for name in ("cityscapesscripts", "cityscapesscripts.helpers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return labels


def test_cityscapes_instance_evaluator(
    build: Build, tiny_dataset: str, cityscapes_labels: list[Label]
) -> None:
    record = DatasetCatalog.get(tiny_dataset)[0]
    size = {"height": record["height"], "width": record["width"]}
    model = build("MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD", "-10.0")
    with torch.no_grad():
        (output,) = model([{"image": torch.rand(3, 48, 64) * 255, **size}])
    evaluator = CityscapesInstanceEvaluator(tiny_dataset)
    evaluator.reset()
    evaluator.process([record], [output])
    stem = Path(record["file_name"]).stem
    lines = (Path(evaluator._temp_dir) / f"{stem}_pred.txt").read_text().splitlines()
    assert len(lines) == len(output["instances"]) > 0
    for index, line in enumerate(lines):
        file_name, label_id, score = line.split()
        mask = np.asarray(Image.open(Path(evaluator._temp_dir) / file_name))
        assert (mask > 0).tolist() == output["instances"].pred_masks[index].tolist()
        assert int(label_id) == 20 + int(output["instances"].pred_classes[index])
        assert 0 <= float(score) <= 1


def test_cityscapes_instance_evaluator_without_instances(
    build: Build, tiny_dataset: str, cityscapes_labels: list[Label]
) -> None:
    model = build()
    model.thing_classes = ()
    with torch.no_grad():
        outputs = model([{"image": torch.rand(3, 48, 64) * 255}])
    evaluator = CityscapesInstanceEvaluator(tiny_dataset)
    evaluator.reset()
    evaluator.process([{"file_name": "a/b.png"}], outputs)
    assert (Path(evaluator._temp_dir) / "b_pred.txt").read_text() == ""


def test_cityscapes_semantic_evaluator(
    build: Build, tiny_dataset: str, cityscapes_labels: list[Label]
) -> None:
    with torch.no_grad():
        (output,) = build()([{"image": torch.rand(3, 48, 64) * 255, "height": 96, "width": 128}])
    evaluator = CityscapesSemSegEvaluator(tiny_dataset)
    evaluator.reset()
    evaluator.process([{"file_name": "a/b.png"}], [output])
    written = np.asarray(Image.open(Path(evaluator._temp_dir) / "b_pred.png"))
    assert written.tolist() == (20 + output["sem_seg"].argmax(0)).tolist()
