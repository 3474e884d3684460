"""Results that are kept, continued and kept apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from axial_d2.engine import Trainer
from axial_d2.engine.scale_stress import Record
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from stress_run import stress

MakeCfg = Callable[..., CfgNode]


def test_only_new_ratios_are_evaluated(
    stress_cfg: MakeCfg, tmp_path: Path, evaluated: list[float]
) -> None:
    file = tmp_path / "scale_stress.json"
    stress(stress_cfg(), [1.0, 2.0], file)
    (run,) = stress(stress_cfg("DATALOADER.NUM_WORKERS", 1), [1.0, 0.5, 1.0], file).runs
    assert evaluated == [1.0, 2.0, 0.5]
    assert [e.ratio for e in run.evaluations] == [0.5, 1.0, 2.0]
    stress(stress_cfg(), [2.0], file, force=True)
    assert evaluated[3:] == [2.0]
    (kept,) = Record.load(file).runs
    assert [e.ratio for e in kept.evaluations] == [0.5, 1.0, 2.0]
    assert kept.evaluations[0].results == {"panoptic_seg": {"PQ": 5.0, "PQ_st": None}}
    assert kept.evaluations[0].versions["device"] == "cpu"
    assert kept.settings["INPUT"]["MIN_SIZE_TEST"] == 0


def test_what_is_there_needs_no_model(
    stress_cfg: MakeCfg, tmp_path: Path, evaluated: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "scale_stress.json"
    stress(stress_cfg(), [1.0], file)
    monkeypatch.setattr(Trainer, "build_model", None)
    stress(stress_cfg(), [1.0], file)
    assert evaluated == [1.0]


def test_an_interruption_keeps_the_ratios_before_it(
    stress_cfg: MakeCfg, tmp_path: Path, evaluated: list[float]
) -> None:
    file = tmp_path / "scale_stress.json"
    with pytest.raises(KeyboardInterrupt):
        stress(stress_cfg(), [13.0, 1.0, 2.0], file)
    (run,) = Record.load(file).runs
    assert run.ratios == set(evaluated) == {1.0, 2.0}


def test_other_weights_or_settings_are_another_run(
    stress_cfg: MakeCfg, tmp_path: Path, evaluated: list[float]
) -> None:
    file = tmp_path / "scale_stress.json"
    stress(stress_cfg(), [1.0], file)
    other = stress_cfg("MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD", 0.5)
    with pytest.raises(ValueError, match=r"'tiny'.*CENTER_THRESHOLD.*--label.*--force"):
        stress(other, [1.0], file)
    assert len(stress(other, [1.0], file, label="strict").runs) == 2
    assert evaluated == [1.0, 1.0]

    copied = tmp_path / "copy.pth"
    copied.write_bytes(Path(other.MODEL.WEIGHTS).read_bytes())
    stress(stress_cfg("MODEL.WEIGHTS", str(copied)), [1.0], file)
    assert evaluated == [1.0, 1.0]
    model = torch.load(copied)
    model["model"]["sem_seg_head.predictor.bias"] += 1
    torch.save(model, copied)
    with pytest.raises(ValueError, match=r"'tiny'.*the weights"):
        stress(stress_cfg("MODEL.WEIGHTS", str(copied)), [1.0], file)
    stress(stress_cfg("MODEL.WEIGHTS", str(copied)), [1.0], file, force=True)
    assert evaluated == [1.0, 1.0, 1.0]
    assert [(run.label, run.weights) for run in Record.load(file).runs] == [
        ("tiny", str(copied)),
        ("strict", other.MODEL.WEIGHTS),
    ]


@pytest.mark.usefixtures("evaluated")
def test_a_run_can_be_relabelled_but_not_to_the_label_of_another(
    stress_cfg: MakeCfg, tmp_path: Path
) -> None:
    file = tmp_path / "scale_stress.json"
    stress(stress_cfg(), [1.0], file)
    stress(stress_cfg("MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE", 5), [1.0], file, label="few")
    stress(stress_cfg(), [1.0], file, label="many")
    assert [run.label for run in Record.load(file).runs] == ["many", "few"]
    with pytest.raises(ValueError, match="labelled 'few' already"):
        stress(stress_cfg(), [1.0], file, label="few", force=True)
    assert [run.label for run in Record.load(file).runs] == ["many", "few"]


@pytest.mark.usefixtures("evaluated")
def test_other_data_do_not_join(stress_cfg: MakeCfg, tmp_path: Path) -> None:
    file = tmp_path / "scale_stress.json"
    stress(stress_cfg(), [1.0], file)
    with pytest.raises(ValueError, match=r"tiny_val with 2 images.*tiny_train with 6 images"):
        stress(stress_cfg("DATASETS.TEST", "('tiny_train',)"), [1.0], file)
    records = DatasetCatalog.get("tiny_val")
    records[0]["segments_info"][0]["area"] += 1
    DatasetCatalog.remove("tiny_val")
    DatasetCatalog.register("tiny_val", lambda: records)
    with pytest.raises(ValueError, match="different data"):
        stress(stress_cfg(), [1.0], file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"dataset": {}, "runs": [{"label": "a"}]}'])
def test_another_file_is_not_overwritten(stress_cfg: MakeCfg, tmp_path: Path, text: str) -> None:
    file = tmp_path / "scale_stress.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"scale_stress.json is not what"):
        stress(stress_cfg(), [1.0], file)
    assert file.read_text() == text
