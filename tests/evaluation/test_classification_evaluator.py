"""Accuracies worked out by hand, and the predictions that are written beside them."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from axial_d2.evaluation import ClassificationEvaluator
from detectron2.data import MetadataCatalog
from detectron2.evaluation import print_csv_format
from detectron2.utils import comm

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


def evaluator(
    classes: list[str], output_dir: Path | None = None, distributed: bool = True
) -> ClassificationEvaluator:
    MetadataCatalog.get("pets").set(classes=classes)
    made = ClassificationEvaluator("pets", output_dir and str(output_dir), distributed)
    made.reset()
    return made


def see(made: ClassificationEvaluator, *images: tuple[int, list[float]]) -> None:
    """Shows images in one batch, (label, logits) each."""
    inputs = [
        {"image_id": f"{n}.png", "file_name": f"/x/{n}.png", "label": label}
        for n, (label, _) in enumerate(images)
    ]
    made.process(inputs, [{"logits": torch.tensor(logits)} for _, logits in images])


def test_by_hand() -> None:
    made = evaluator(NAMES)
    descending = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    see(made, (0, descending), (0, descending[::-1]))  # best; seventh
    see(made, (1, descending), (4, descending))  # second; fifth
    see(made, (5, descending), (5, descending[::-1]))  # sixth; second
    results = made.evaluate()["classification"]
    assert list(results) == ["top1", "top5", *(f"accuracy-{name}" for name in NAMES)]
    assert results["top1"] == pytest.approx(100 * 1 / 6)
    assert results["top5"] == pytest.approx(100 * 4 / 6)
    assert results["accuracy-ant"] == 50.0
    assert [results[f"accuracy-{name}"] for name in ("bee", "eel", "fox")] == [0.0] * 3
    assert all(math.isnan(results[f"accuracy-{name}"]) for name in ("cat", "dog", "gnu"))
    assert all(type(value) is float for value in results.values())

    made.reset()
    see(made, (2, [0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0]))
    results = made.evaluate()["classification"]
    assert (results["top1"], results["accuracy-cat"]) == (100.0, 100.0)


def test_logits_far_apart_keep_their_order() -> None:
    """Their probabilities are all 0 but one."""
    made = evaluator(NAMES)
    see(made, (5, [1000.0, -3.0, -2.0, -9.0, -4.0, 500.0, -1.0]))
    see(made, (3, [1000.0, -3.0, -2.0, -9.0, -4.0, 500.0, -1.0]))
    assert made.evaluate()["classification"]["top5"] == 50.0
    assert made._predictions[0]["classes"] == [0, 5, 6, 2, 1]


def test_fewer_than_five_classes(caplog: pytest.LogCaptureFixture) -> None:
    made = evaluator(NAMES[:3])
    with caplog.at_level(logging.INFO):
        see(made, (0, [0.0, 1.0, 2.0]), (2, [0.0, 1.0, 2.0]))
        results = made.evaluate()["classification"]
    assert (results["top1"], results["top5"]) == (50.0, 100.0)
    assert "top5: among all 3 classes" in caplog.text


def test_nan_is_wrong() -> None:
    made = evaluator(NAMES[:2])
    see(made, (0, [math.nan, 0.0]), (1, [0.0, math.nan]), (0, [math.inf, -math.inf]))
    results = made.evaluate()["classification"]
    assert results["top1"] == pytest.approx(100 / 3)
    assert results["top5"] == pytest.approx(100 / 3)


def test_predictions_are_written(tmp_path: Path) -> None:
    made = evaluator(NAMES[:3], tmp_path / "new")
    see(made, (0, [math.log(1.0), math.log(3.0), math.log(6.0)]))
    made.evaluate()
    (written,) = json.loads((tmp_path / "new" / "classification_predictions.json").read_text())
    assert written["scores"] == pytest.approx([0.6, 0.3, 0.1], rel=1e-5)
    assert {k: v for k, v in written.items() if k != "scores"} == {
        "image_id": "0.png", "file_name": "/x/0.png", "label": 0, "classes": [2, 1, 0],
    }  # fmt: skip


def test_half_precision_logits() -> None:
    made = evaluator(NAMES[:3])
    image = {"image_id": "a", "file_name": "a", "label": 1}
    made.process([image], [{"logits": torch.tensor([1, 5, 2], dtype=torch.bfloat16)}])
    assert made.evaluate()["classification"]["top1"] == 100.0


def test_detectron2_prints_the_accuracies_but_not_every_class(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = evaluator(NAMES[:3])
    see(made, (0, [0.0, 1.0, 2.0]), (2, [0.0, 1.0, 2.0]))
    with caplog.at_level(logging.INFO):
        print_csv_format(made.evaluate())
    assert caplog.messages[-2:] == ["copypaste: top1,top5", "copypaste: 50.0000,100.0000"]
    assert "| ant" in caplog.text


def test_processes_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    made = evaluator(NAMES[:2])
    see(made, (0, [1.0, 0.0]))
    other = {"image_id": 1, "file_name": "b", "label": 0, "classes": [1, 0], "scores": [0.9, 0.1]}
    monkeypatch.setattr(comm, "gather", lambda mine, dst: [mine, [other, other]])
    assert made.evaluate()["classification"]["top1"] == pytest.approx(100 / 3)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert made.evaluate() is None
    alone = evaluator(NAMES[:2], distributed=False)
    see(alone, (0, [1.0, 0.0]))
    assert alone.evaluate()["classification"]["top1"] == 100.0


def test_no_image_gives_no_result(caplog: pytest.LogCaptureFixture) -> None:
    assert evaluator(NAMES).evaluate() == {}
    assert "did not receive any image" in caplog.text


def test_logits_of_another_number_of_classes() -> None:
    made = evaluator(NAMES)
    with pytest.raises(ValueError, match=r"logits \[2\] .*pets has 7 classes.*NUM_CLASSES"):
        see(made, (0, [1.0, 0.0]))


def test_a_data_set_without_classes() -> None:
    MetadataCatalog.get("roads").set(evaluator_type="classification")
    with pytest.raises(ValueError, match=r"roads has no classes .*register_image_folder"):
        ClassificationEvaluator("roads")
