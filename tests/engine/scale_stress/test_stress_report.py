"""From results to curves, a table and a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from axial_d2.engine.scale_stress import (
    Evaluation,
    Record,
    Run,
    check_baseline,
    curves,
    draw_curves,
    table,
)
from axial_d2.engine.scale_stress.report import relative_gain
from PIL import Image


def record_of(**runs: dict[float, float | None]) -> Record:
    """Runs with this PQ at these ratios."""
    record = Record({"name": "pets", "num_images": 3, "sha256": "0"})
    for label, values in runs.items():
        run = Run(label, "a.yaml", "a.pth", label, {})
        for ratio, value in values.items():
            results = {"panoptic_seg": {"PQ": value, "PQ_th": value, "SQ": 50.0}}
            run.add(Evaluation(ratio, results, 1.0, {}))
        record.runs.append(run)
    return record


def test_curves_and_table_are_the_results() -> None:
    record = record_of(axial={0.5: 20.0, 1.0: 40.0}, conv={1.0: 39.0, 2.0: None})
    drawn = curves(record, "PQ")
    assert list(drawn) == ["PQ", r"PQ$^{\mathrm{Th}}$", r"PQ$^{\mathrm{St}}$"]
    assert drawn["PQ"] == {"axial": {0.5: 20.0, 1.0: 40.0}, "conv": {1.0: 39.0, 2.0: None}}
    header, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(record, "PQ").splitlines()
    ]
    assert header == ["run", "ratio", "PQ", "PQ_th", "PQ_st", "SQ", "RQ"]
    assert lines[0] == ["axial", "0.5", "20.00", "20.00", "–", "50.00", "–"]
    assert lines[3] == ["conv", "2", "–", "–", "–", "50.00", "–"]
    with pytest.raises(ValueError, match="no mask-AP"):
        curves(record, "mask-AP")


def test_cityscapes_names_mean_iou_otherwise() -> None:
    record = record_of(a={})
    record.runs[0].add(Evaluation(1.0, {"sem_seg": {"IoU": 70.0, "iIoU": 60.0}}, 1, {}))
    assert curves(record, "mIoU")["mIoU"] == {"a": {1.0: 70.0}}


def test_gain_is_relative_where_both_have_a_value() -> None:
    curve = {0.5: 13.0, 1.0: 42.0, 2.0: None, 3.0: 5.0, 4.0: 1.0}
    baseline = {0.5: 10.0, 1.0: 40.0, 2.0: 3.0, 4.0: 0.0}
    assert relative_gain(curve, baseline) == pytest.approx({0.5: 30.0, 1.0: 5.0})


def test_baseline_is_a_label() -> None:
    record = record_of(axial={1.0: 40.0}, conv={1.0: 39.0})
    check_baseline(record, None)
    check_baseline(record, "conv")
    with pytest.raises(ValueError, match=r"'convolution'.*'axial', 'conv'"):
        check_baseline(record, "convolution")


def test_the_figure_shows_curves_and_gains(tmp_path: Path) -> None:
    """Drawn colours are looked for: a curve of each run above, its gain alone below."""
    record = record_of(**{"$a_{": {0.5: 20.0, 1.0: 40.0, 4.0: 0.0}, "_b": {0.5: 10.0, 1.0: None}})
    drawn_runs = {"PQ": curves(record, "PQ")["PQ"]}
    plain, gains = tmp_path / "plain.png", tmp_path / "gains.png"
    draw_curves(drawn_runs, plain, "pets {3}")
    draw_curves(drawn_runs, gains, "pets", baseline="_b")
    pictures = [np.asarray(Image.open(file).convert("RGB"), int) for file in (plain, gains)]
    blue, orange = (31, 119, 180), (255, 127, 14)

    def drawn(picture: np.ndarray, color: tuple[int, ...]) -> int:
        return int((np.abs(picture - color).max(axis=2) < 8).sum())

    assert min(drawn(picture, color) for picture in pictures for color in (blue, orange)) > 50
    assert pictures[1].shape[0] > 1.5 * pictures[0].shape[0]
    lower = pictures[1][pictures[1].shape[0] * 55 // 100 : pictures[1].shape[0] * 85 // 100]
    assert drawn(lower, blue) > 20
    assert drawn(lower, orange) == 0
