"""What cannot work is refused before anything is evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from axial_d2.engine.checkpoint import WeightsError
from axial_d2.engine.scale_stress import Record, check_scale_stress, evaluate
from axial_d2.engine.scale_stress.resize import build_ratio_loader
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from stress_run import stress

MakeCfg = Callable[..., CfgNode]


@pytest.mark.parametrize(
    ("opts", "ratios", "message"),
    [
        ([], [1.0, 0.0], "ratio 0: .*above 0"),
        ([], [-2.0], "ratio -2"),
        ([], [math.nan], "ratio nan"),
        ([], [math.inf], "ratio inf"),
        (["DATASETS.TEST", ("pets",)], [1.0], "'pets'"),
        (["DATASETS.TEST", ()], [1.0], "one data set"),
        (["DATASETS.TEST", ("tiny_val", "tiny_train")], [1.0], "one data set"),
        (["TEST.AUG.ENABLED", True], [1.0], "TEST.AUG.ENABLED False"),
        (["MODEL.WEIGHTS", ""], [1.0], "MODEL.WEIGHTS is empty"),
        (["MODEL.WEIGHTS", "none.pth"], [1.0], "none.pth, which does not exist"),
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3], [1.0], "NUM_CLASSES"),
    ],
)
def test_what_cannot_work_is_refused(
    stress_cfg: MakeCfg, opts: list, ratios: list[float], message: str
) -> None:
    cfg = stress_cfg(*opts)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_scale_stress(cfg, ratios)


def test_a_data_set_that_nothing_evaluates_is_refused(stress_cfg: MakeCfg) -> None:
    cfg = stress_cfg()
    check_scale_stress(cfg, [1.0])
    MetadataCatalog.get("tiny_val").__dict__["evaluator_type"] = "taste"
    with pytest.raises(ValueError, match="'taste'"):
        check_scale_stress(cfg, [1.0])


def test_damaged_weights_are_refused_before_any_evaluation(
    stress_cfg: MakeCfg, tmp_path: Path, evaluated: list[float]
) -> None:
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    cfg = stress_cfg("MODEL.WEIGHTS", str(tmp_path / "damaged.pth"))
    with pytest.raises(WeightsError, match=r"damaged.pth"):
        stress(cfg, [1.0], tmp_path / "scale_stress.json")
    assert evaluated == []
    assert not (tmp_path / "scale_stress.json").exists()


def test_images_below_the_stride_are_refused_before_any_evaluation(
    stress_cfg: MakeCfg, tmp_path: Path, evaluated: list[float]
) -> None:
    cfg, file = stress_cfg(), tmp_path / "scale_stress.json"
    side = min(min(r["height"], r["width"]) for r in DatasetCatalog.get("tiny_val"))
    smallest = math.ceil(1000 * 16 / side) / 1000
    message = rf"ratio 0.1 makes .*\.jpg .*stride of 16; give ratios of {smallest} or more"
    with pytest.raises(ValueError, match=message):
        stress(cfg, [1.0, 0.1], file)
    assert evaluated == []
    stress(cfg, [smallest], file)
    assert evaluated == [smallest]
    stress(stress_cfg("INPUT.MIN_SIZE_TEST", 200), [0.1], tmp_path / "enlarged.json")


def test_an_image_of_unstated_size_is_refused_when_it_is_read(tiny_cfg: MakeCfg) -> None:
    loader = build_ratio_loader(tiny_cfg(), "tiny_val", 0.1, min_side=16)
    with pytest.raises(ValueError, match=r"\.jpg cannot be used: .*stride of 16"):
        list(loader)


def test_a_ratio_beyond_the_gpus_memory_is_named_and_smaller_ones_are_kept(
    stress_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infer(model: torch.nn.Module, loader: Iterable, evaluators: object) -> dict:
        ((inputs,), *_) = loader
        if max(inputs["image"].shape) > 200:
            raise torch.cuda.OutOfMemoryError("no memory")
        return {"panoptic_seg": {"PQ": 1.0}}

    monkeypatch.setattr(evaluate, "inference_on_dataset", infer)
    file = tmp_path / "scale_stress.json"
    with pytest.raises(ValueError, match="memory does not suffice for ratio 2"):
        stress(stress_cfg(), [3.0, 2.0, 1.0], file)
    assert [e.ratio for e in Record.load(file).runs[0].evaluations] == [1.0]
