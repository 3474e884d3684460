"""Accuracy of a classifier."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from tabulate import tabulate
from torch import Tensor

PREDICTIONS_FILE = "classification_predictions.json"
_MOST = 5


class ClassificationEvaluator(DatasetEvaluator):
    """Top-1, top-5 and per-class accuracy in percent.

    Inputs are dicts with ``label``, ``image_id`` and ``file_name``, outputs dicts with ``logits``
    ``[num_classes]``. An image counts as right where its label is among the classes of the one or
    five largest logits; one with NaN among its logits counts as wrong.

    Args:
        dataset_name: registered, with ``classes`` in its metadata.
        output_dir: folder for ``classification_predictions.json``; None writes nothing. The file
            is a list with a dict an image: ``image_id``, ``file_name``, ``label``, and
            ``classes`` and ``scores`` (softmax) of the five likeliest classes, best first.
        distributed: whether to gather what all processes saw; the result is the main one's.

    Raises:
        ValueError: the data set has no ``classes``.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, distributed: bool = True):
        classes = MetadataCatalog.get(dataset_name).get("classes")
        if not classes:
            raise ValueError(
                f"The data set {dataset_name} has no classes in its metadata, which a classifier "
                "is measured by; register it with axial_d2.data.register_image_folder."
            )
        self._classes: list[str] = list(classes)
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._distributed = distributed
        self._logger = logging.getLogger(__name__)
        self._predictions: list[dict[str, Any]] = []

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Takes a batch.

        Raises:
            ValueError: there are other than one logit a class of the data set.
        """
        for image, output in zip(inputs, outputs, strict=True):
            best, scores = self._likeliest(output["logits"])
            self._predictions.append(
                {
                    "image_id": image["image_id"],
                    "file_name": image["file_name"],
                    "label": int(image["label"]),
                    "classes": best,
                    "scores": scores,
                }
            )

    def _likeliest(self, logits: Tensor) -> tuple[list[int], list[float]]:
        if tuple(logits.shape) != (len(self._classes),):
            raise ValueError(
                f"The model gives logits {list(logits.shape)} an image, but {self._dataset_name} "
                f"has {len(self._classes)} classes; set MODEL.CLASSIFIER.NUM_CLASSES to that."
            )
        if logits.isnan().any():
            return [], []
        logits = logits.float().cpu()
        best = logits.topk(min(_MOST, len(self._classes))).indices
        return best.tolist(), logits.softmax(dim=0)[best].tolist()

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The accuracies.

        Returns:
            ``{"classification": {"top1", "top5", "accuracy-<class>" …}}`` in percent, empty where
            no image was seen; None in all processes but the main one. With fewer than five
            classes ``top5`` counts them all. A class without images has accuracy NaN.
            (Detectron2 prints results whose names have no hyphen.)
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return None
        if not predictions:
            self._logger.warning("ClassificationEvaluator did not receive any image.")
            return OrderedDict()
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, PREDICTIONS_FILE)
            with PathManager.open(path, "w") as file:
                json.dump(predictions, file)
        results = accuracies(predictions, self._classes)
        self._log(results, len(predictions))
        return OrderedDict({"classification": results})

    def _log(self, results: dict[str, float], images: int) -> None:
        self._logger.info(
            "Accuracy on %d images of %s, in percent%s:\n%s",
            images,
            self._dataset_name,
            _remark(len(self._classes)),
            create_small_table({name: results[name] for name in ("top1", "top5")}),
        )
        cells = [x for name in self._classes for x in (name, results[f"accuracy-{name}"])]
        columns = min(6, len(cells))
        rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
        headers = ["class", "accuracy"] * (columns // 2)
        table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".3f", numalign="left")
        self._logger.info("Accuracy of each class:\n%s", table)


def _remark(num_classes: int) -> str:
    return f" (top5: among all {num_classes} classes)" if num_classes < _MOST else ""


def accuracies(predictions: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, float]:
    """Accuracies in percent, as :meth:`ClassificationEvaluator.evaluate` returns them.

    Args:
        predictions: one or more, with ``label`` and ``classes``, the likeliest ones first.
        classes: names by label.
    """
    labels = np.array([p["label"] for p in predictions])
    first = np.array([p["label"] in p["classes"][:1] for p in predictions])
    among = np.array([p["label"] in p["classes"][:_MOST] for p in predictions])
    counts = np.bincount(labels, minlength=len(classes))
    right = np.bincount(labels, weights=first, minlength=len(classes))
    with np.errstate(invalid="ignore"):
        of_class = 100 * right / counts
    results = {"top1": 100 * float(first.mean()), "top5": 100 * float(among.mean())}
    results.update({f"accuracy-{n}": float(a) for n, a in zip(classes, of_class, strict=True)})
    return results
