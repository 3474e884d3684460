"""Detectron2's evaluators, mappers and Visualizer take the registered data sets as they are.

The ground truth itself is handed to each evaluator as a prediction, so it must score 100.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from axial_d2.data import (
    make_demo_dataset,
    read_image,
    read_panoptic_png,
    register_demo_dataset,
    register_panoptic_dataset,
)
from axial_d2.data.synthetic import SplitPaths
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image

Record = dict[str, Any]


@pytest.fixture(scope="module")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    make_demo_dataset(root, seed=1, num_train=1, num_val=6)  # the sixth has no thing
    return root


@pytest.fixture(params=["given", "derived"])
def name(request: pytest.FixtureRequest, small_root: Path) -> str:
    if request.param == "given":
        return register_demo_dataset(small_root, "given")[1]
    paths = SplitPaths.of(small_root, "val")
    register_panoptic_dataset("derived", paths.images, paths.panoptic, paths.panoptic_json)
    return "derived"


def _panoptic_output(record: Record) -> Record:
    ids = torch.as_tensor(read_panoptic_png(record["pan_seg_file_name"]))
    keys = ("id", "category_id", "isthing")
    segments = [{key: s[key] for key in keys} for s in record["segments_info"]]
    return {"panoptic_seg": (ids, segments)}


def _semantic_output(record: Record, num_classes: int) -> Record:
    labels = torch.as_tensor(np.array(Image.open(record["sem_seg_file_name"]), dtype=np.int64))
    labels[labels == 255] = 0  # a guess where there is no label
    one_hot = torch.nn.functional.one_hot(labels, num_classes)
    return {"sem_seg": one_hot.permute(2, 0, 1).float()}


def _instances_output(record: Record) -> Record:
    annotations = record["annotations"]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    masks = [mask_util.decode(a["segmentation"]) for a in annotations]
    size = (record["height"], record["width"])
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.long)
    instances.pred_masks = torch.as_tensor(np.array(masks).reshape(-1, *size)).bool()
    instances.scores = torch.ones(len(annotations))
    return {"instances": instances}


def _evaluate(evaluator: Any, records: list[Record], outputs: list[Record]) -> Any:
    evaluator.reset()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([record], [output])
    return evaluator.evaluate()


def test_panoptic_evaluator(name: str) -> None:
    evaluator = COCOPanopticEvaluator(name)
    records = DatasetCatalog.get(name)
    result = _evaluate(evaluator, records, [_panoptic_output(r) for r in records])["panoptic_seg"]
    for metric in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st"):
        assert result[metric] == pytest.approx(100)
    swapped = [_panoptic_output(r) for r in records]
    for output in swapped:
        for segment in output["panoptic_seg"][1]:
            if segment["isthing"]:
                segment["category_id"] = (segment["category_id"] + 1) % 5
    assert _evaluate(evaluator, records, swapped)["panoptic_seg"]["PQ_th"] == 0


def test_semantic_evaluator(name: str) -> None:
    evaluator = SemSegEvaluator(name, distributed=False)
    records = DatasetCatalog.get(name)
    result = _evaluate(evaluator, records, [_semantic_output(r, 10) for r in records])["sem_seg"]
    assert result["mIoU"] == pytest.approx(100)
    names = MetadataCatalog.get(name).stuff_classes
    assert {f"IoU-{n}" for n in names} <= set(result)
    wrong = [{"sem_seg": _semantic_output(r, 10)["sem_seg"].flip(0)} for r in records]
    assert _evaluate(evaluator, records, wrong)["sem_seg"]["mIoU"] < 1


def test_instance_evaluator(name: str) -> None:
    evaluator = COCOEvaluator(name, distributed=False, use_fast_impl=False)  # before loading
    records = DatasetCatalog.get(name)
    result = _evaluate(evaluator, records, [_instances_output(r) for r in records])
    assert result["segm"]["AP"] == pytest.approx(100)
    assert result["bbox"]["AP"] == pytest.approx(100)
    present = {a["category_id"] for r in records for a in r["annotations"]}
    for index, class_name in enumerate(MetadataCatalog.get(name).thing_classes):
        expected = 100.0 if index in present else float("nan")
        assert result["segm"][f"AP-{class_name}"] == pytest.approx(expected, nan_ok=True)


def test_per_class_ap_belongs_to_its_class(handmade) -> None:
    """The JSON lists cat (900) before dog (17); only cats are there, and only cats score."""
    register_panoptic_dataset("handmade", **handmade.arguments)
    evaluator = COCOEvaluator("handmade", distributed=False, use_fast_impl=False)
    records = DatasetCatalog.get("handmade")
    result = _evaluate(evaluator, records, [_instances_output(r) for r in records])["segm"]
    assert result["AP-cat"] == pytest.approx(100)
    assert np.isnan(result["AP-dog"])


@pytest.mark.parametrize("mode", [ColorMode.IMAGE, ColorMode.SEGMENTATION])
def test_visualizer_draws_every_record(name: str, mode: ColorMode) -> None:
    metadata = MetadataCatalog.get(name)
    for record in DatasetCatalog.get(name)[-2:]:
        image = read_image(record["file_name"], "RGB")
        drawn = Visualizer(image, metadata, instance_mode=mode).draw_dataset_dict(record)
        assert drawn.get_image().shape == image.shape
        assert not np.array_equal(drawn.get_image(), image)
        panoptic = _panoptic_output(record)["panoptic_seg"]
        drawn = Visualizer(image, metadata, instance_mode=mode).draw_panoptic_seg(*panoptic)
        assert not np.array_equal(drawn.get_image(), image)


def test_detectron2_mapper_makes_mask_rcnn_inputs(name: str) -> None:
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    mapper = DatasetMapper(cfg, is_train=True)
    for record in DatasetCatalog.get(name):
        mapped = mapper(record)
        assert len(mapped["instances"]) == len(record["annotations"])
        assert mapped["sem_seg"].shape == mapped["image"].shape[1:]
