"""What the network is given at a ratio, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from axial_d2.engine import Trainer
from axial_d2.engine.scale_stress import check_scale_stress, curves, evaluate, pick_metric
from axial_d2.engine.scale_stress.resize import build_ratio_loader
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from stress_run import stress

MakeCfg = Callable[..., CfgNode]
# Shortest and longest side of plain evaluation.
TEST_SIZES = {"as_is": (0, 1333), "shortest": (61, 1333), "longest": (61, 70)}


def same_results(given: dict, expected: dict) -> bool:
    return json.dumps(given, sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_ratio_1_is_plain_evaluation_and_others_are_not(stress_cfg: MakeCfg) -> None:
    cfg = stress_cfg()
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    plain = Trainer.test(cfg, model)
    assert plain["sem_seg"]["mIoU"] > 0
    assert same_results(evaluate.evaluate_at_ratio(cfg, model, 1.0), plain)
    half = evaluate.evaluate_at_ratio(cfg, model, 0.5)
    assert half.keys() == plain.keys()
    assert half["sem_seg"]["mIoU"] != plain["sem_seg"]["mIoU"]


def test_the_network_sees_scaled_images_and_answers_at_full_size(stress_cfg: MakeCfg) -> None:
    cfg = stress_cfg()
    (first, *_) = (inputs for (inputs,) in build_ratio_loader(cfg, "tiny_val", 1.5))
    height, width = first["height"], first["width"]
    model = Trainer.build_model(cfg).eval()
    seen: list[tuple[int, ...]] = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2:]))
    with torch.no_grad():
        (output,) = model([first])
    assert seen == [(int(1.5 * height + 0.5), int(1.5 * width + 0.5))]
    assert output["panoptic_seg"][0].shape == (height, width)


@pytest.mark.parametrize("sizes", TEST_SIZES)
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.3])
def test_the_input_is_ratio_times_as_large(tiny_cfg: MakeCfg, sizes: str, ratio: float) -> None:
    shortest, longest = TEST_SIZES[sizes]
    cfg = tiny_cfg("INPUT.MIN_SIZE_TEST", shortest, "INPUT.MAX_SIZE_TEST", longest)
    plain = [inputs for (inputs,) in Trainer.build_test_loader(cfg, "tiny_val")]
    scaled = [inputs for (inputs,) in build_ratio_loader(cfg, "tiny_val", ratio)]
    assert len(scaled) == len(plain) == 2
    for one, other in zip(scaled, plain, strict=True):
        expected = [int(ratio * side + 0.5) for side in other["image"].shape[1:]]
        assert list(one["image"].shape[1:]) == expected
        assert {k: one[k] for k in ("height", "width", "image_id")} == {
            k: other[k] for k in ("height", "width", "image_id")
        }
        if ratio == 1:
            assert torch.equal(one["image"], other["image"])
    if sizes == "longest":
        assert max(plain[0]["image"].shape[1:]) == longest
        assert max(scaled[0]["image"].shape[1:]) == int(ratio * longest + 0.5)


def test_an_image_is_interpolated_once(tiny_cfg: MakeCfg) -> None:
    cfg = tiny_cfg("INPUT.MIN_SIZE_TEST", 24)
    ((inputs,), *_) = build_ratio_loader(cfg, "tiny_val", 3.0)
    height, width = inputs["image"].shape[1:]
    assert min(height, width) == 72
    original = Image.open(inputs["file_name"]).convert("RGB")
    expected = np.asarray(original.resize((width, height), Image.Resampling.BILINEAR))
    assert np.array_equal(inputs["image"].permute(1, 2, 0).numpy(), expected)


def test_a_data_set_with_semantic_ground_truth_alone(stress_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = stress_cfg("DATASETS.TEST", "('semantic',)")
    source = MetadataCatalog.get("tiny_val")
    MetadataCatalog.get("semantic").set(
        evaluator_type="sem_seg", stuff_classes=source.stuff_classes, ignore_label=255
    )
    records = [
        {key: record[key] for key in ("file_name", "sem_seg_file_name", "height", "width")}
        for record in DatasetCatalog.get("tiny_val")
    ]
    DatasetCatalog.register("semantic", lambda: records)
    check_scale_stress(cfg, [1.0])
    assert pick_metric(cfg) == "mIoU"
    with pytest.raises(ValueError, match=r"PQ is not measured .* possible are mIoU"):
        pick_metric(cfg, "PQ")
    record = stress(cfg, [1.0, 2.0], tmp_path / "scale_stress.json")
    assert curves(record, "mIoU") == {
        "mIoU": {
            "tiny": {e.ratio: e.results["sem_seg"]["mIoU"] for e in record.runs[0].evaluations}
        }
    }
