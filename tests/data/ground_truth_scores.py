"""Hands a data set's ground truth to Detectron2's evaluators as if it had been predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from axial_d2.data import read_panoptic_png
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

Record = dict[str, Any]


def evaluate(evaluator: Any, records: list[Record], outputs: list[Record]) -> Any:
    evaluator.reset()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([record], [output])
    return evaluator.evaluate()


def panoptic_output(record: Record) -> Record:
    ids = torch.as_tensor(read_panoptic_png(record["pan_seg_file_name"]))
    keys = ("id", "category_id", "isthing")
    return {"panoptic_seg": (ids, [{k: s[k] for k in keys} for s in record["segments_info"]])}


def _semantic(record: Record) -> Record:
    labels = np.array(Image.open(record["sem_seg_file_name"]), dtype=np.int64)
    labels[labels == 255] = 0  # a guess where there is no label
    return {"sem_seg": torch.nn.functional.one_hot(torch.as_tensor(labels), 4).permute(2, 0, 1)}


def _instances(record: Record) -> Record:
    annotations, size = record["annotations"], (record["height"], record["width"])
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    masks = np.array([mask_util.decode(a["segmentation"]) for a in annotations])
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.pred_classes = torch.tensor([a["category_id"] for a in annotations])
    instances.pred_masks = torch.as_tensor(masks).bool()
    instances.scores = torch.ones(len(annotations))
    return {"instances": instances}


def ground_truth_scores(name: str) -> dict[str, float]:
    """PQ, mIoU and mask AP of the ground truth itself."""
    instances = COCOEvaluator(name, distributed=False, use_fast_impl=False)  # before loading
    records = DatasetCatalog.get(name)
    panoptic = evaluate(COCOPanopticEvaluator(name), records, [panoptic_output(r) for r in records])
    semantic = SemSegEvaluator(name, distributed=False)
    return {
        "PQ": panoptic["panoptic_seg"]["PQ"],
        "mIoU": evaluate(semantic, records, [_semantic(r) for r in records])["sem_seg"]["mIoU"],
        "AP": evaluate(instances, records, [_instances(r) for r in records])["segm"]["AP"],
    }
