"""``TEST.AUG``: refused before work begins, or results under names that end in _TTA."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from axial_d2.data import register_demo_dataset
from axial_d2.engine import Trainer
from axial_d2.engine import setup as engine_setup
from axial_d2.engine.checks import check_config
from axial_d2.meta_arch.test_time_augmentation import scale_mappers, with_test_time_augmentation
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNNWithTTA
from tool_modules import load_tool

MakeCfg = Callable[..., CfgNode]

HERE = Path(__file__).parent
AUG = ("TEST.AUG.ENABLED", True, "TEST.AUG.SCALES", (0.5, 1.0))

RCNN = (
    "MODEL.META_ARCHITECTURE", "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME", "build_axial_resnet_fpn_backbone",
    "MODEL.AXIAL_RESNET.OUTPUT_STRIDE", 32,
    "MODEL.AXIAL_RESNET.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS", 8,
    "MODEL.MASK_ON", True,
    "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.POST_NMS_TOPK_TEST", 20,
    "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]],
    "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NUM_CLASSES", 5,
    "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC", 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM", 16,
    "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV", 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM", 8,
)  # fmt: skip


@pytest.mark.parametrize("scales", [(0.0, 1.0), (-1.0,), (float("nan"),), (float("inf"),), ("x",)])
def test_scales_that_are_none_are_refused(tiny_cfg: MakeCfg, scales: tuple) -> None:
    cfg = tiny_cfg(*AUG)
    check_config(cfg)
    cfg.TEST.AUG.SCALES = scales
    with pytest.raises(ValueError, match=r"TEST.AUG.SCALES .* contains .* numbers above 0"):
        check_config(cfg)
    cfg.TEST.AUG.ENABLED = False
    check_config(cfg)


@pytest.mark.parametrize("sizes", [(), (-1,), (0.5, 1.0)])
def test_sizes_that_are_none_are_refused(tiny_cfg: MakeCfg, sizes: tuple) -> None:
    cfg = tiny_cfg("TEST.AUG.ENABLED", True)
    check_config(cfg)
    cfg.TEST.AUG.MIN_SIZES = sizes
    with pytest.raises(ValueError, match=r"SCALES is empty and TEST.AUG.MIN_SIZES is \("):
        check_config(cfg)
    cfg.TEST.AUG.SCALES = (0.5,)
    check_config(cfg)


@pytest.mark.parametrize(
    ("architecture", "classes"),
    [
        ("PanopticDeepLab", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
        ("RetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
    ],
)
def test_other_architectures_are_refused_before_anything_is_built(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, architecture: str, classes: str
) -> None:
    monkeypatch.setattr(Trainer, "build_model", lambda *_: pytest.fail("built a model first"))
    number = 5 if architecture == "RetinaNet" else 10
    with pytest.raises(
        ValueError,
        match=rf"MODEL.META_ARCHITECTURE '{architecture}' has no test-time augmentation.*"
        r"'AxialDeepLab', 'GeneralizedRCNN'.*set TEST.AUG.ENABLED False",
    ):
        Trainer(tiny_cfg(*AUG, "MODEL.META_ARCHITECTURE", architecture, classes, number))


@pytest.mark.parametrize("key", ["KEYPOINT_ON", "LOAD_PROPOSALS"])
def test_what_detectron2_cannot_augment_is_refused(tiny_cfg: MakeCfg, key: str) -> None:
    with pytest.raises(ValueError, match=rf"MODEL.{key} is True.*set TEST.AUG.ENABLED False"):
        check_config(tiny_cfg(*AUG, *RCNN, f"MODEL.{key}", True))


def test_the_options_of_the_papers_protocol_that_the_readme_gives(tiny_cfg: MakeCfg) -> None:
    readme = (HERE.parents[1] / "configs" / "README.md").read_text(encoding="utf-8")
    command = re.search(r"tools/train_net.py [^`]*TEST.AUG.SCALES[^`]*", readme)
    opts = shlex.split(command.group().replace("\\\n", " "))
    opts = opts[opts.index("MODEL.WEIGHTS") :]
    assert opts[1] == "model_final.pth"
    cfg = tiny_cfg(*opts[2:])
    check_config(cfg)
    assert cfg.TEST.AUG.ENABLED
    assert cfg.TEST.AUG.FLIP
    assert len(scale_mappers(cfg)) == 7


def test_training_ends_with_both_tests(tiny_cfg: MakeCfg) -> None:
    expected = [["panoptic_seg_TTA", "PQ", 50.0, 50.0]]
    cfg = tiny_cfg(
        *AUG, "SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1, "TEST.EXPECTED_RESULTS", expected
    )
    output_dir = Path(cfg.OUTPUT_DIR)
    output_dir.mkdir()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    for name in ("panoptic_seg", "sem_seg", "bbox"):
        assert results[name].keys() == results[f"{name}_TTA"].keys()
    assert results["sem_seg"] != results["sem_seg_TTA"]

    lines = (output_dir / "metrics.json").read_text().splitlines()
    with_tta = [json.loads(line) for line in lines if "_TTA" in line]
    assert len(with_tta) == 1, "once, at the end"
    assert with_tta[0]["panoptic_seg_TTA/PQ"] == pytest.approx(results["panoptic_seg_TTA"]["PQ"])
    for folder in ("inference", "inference_TTA"):
        assert (output_dir / folder / "predictions.json").is_file()


def test_the_augmentation_is_what_the_config_says(tiny_cfg: MakeCfg) -> None:
    """At the plain size alone, unflipped, the results are the plain ones."""
    one = ("TEST.AUG.ENABLED", True, "TEST.AUG.SCALES", (1.0,), "TEST.AUG.FLIP")
    cfg = tiny_cfg(*one, False)
    model = Trainer.build_model(cfg)
    plain = Trainer.test(cfg, model)
    given = Trainer.test_with_TTA(cfg, model)
    for name in ("panoptic_seg", "sem_seg"):
        assert given[f"{name}_TTA"] == pytest.approx(plain[name], nan_ok=True)
    flipped = Trainer.test_with_TTA(tiny_cfg(*one, True), model)
    assert flipped["sem_seg_TTA"] != pytest.approx(plain["sem_seg"], nan_ok=True)


@pytest.mark.parametrize("sizes", [("TEST.AUG.SCALES", (1.0, 1.5)), ("TEST.AUG.MIN_SIZES", (48,))])
def test_rcnns_have_detectron2s_augmentation(tiny_cfg: MakeCfg, sizes: tuple) -> None:
    cfg = tiny_cfg(*RCNN, "TEST.AUG.ENABLED", True, *sizes)
    check_config(cfg)
    model = Trainer.build_model(cfg).eval()
    wrapped = with_test_time_augmentation(cfg, model)
    assert type(wrapped) is GeneralizedRCNNWithTTA
    (inputs,) = next(iter(Trainer.build_test_loader(cfg, "tiny_val")))
    edges = [min(version["image"].shape[1:]) for version in wrapped.tta_mapper(inputs)]
    edge = min(inputs["image"].shape[1:])
    assert edges == ([edge, edge, 1.5 * edge, 1.5 * edge] if "SCALES" in sizes[0] else [48, 48])
    results = Trainer.test_with_TTA(cfg, model)
    assert results.keys() == {"bbox_TTA", "segm_TTA"}
    assert not model.training


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, demo_files: Path) -> ModuleType:
    """``tools/train_net.py`` as a module, which sets up no logging here."""
    register_demo_dataset(demo_files, "tiny")
    monkeypatch.setattr(
        engine_setup, "default_setup", lambda cfg, args: os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    )
    return load_tool("train_net")


def test_eval_only_gives_and_verifies_both(tool: ModuleType, tmp_path: Path) -> None:
    expected = ["TEST.EXPECTED_RESULTS", [["panoptic_seg_TTA", "PQ", 50.0, 50.0]]]
    opts = ["OUTPUT_DIR", str(tmp_path / "out"), *AUG, *expected]
    args = argparse.Namespace(
        config_file=str(HERE / "tiny.yaml"), resume=False, eval_only=True, opts=opts
    )
    results = tool.main(args)
    assert results.keys() >= {"panoptic_seg", "sem_seg", "panoptic_seg_TTA", "sem_seg_TTA"}
    args.opts = ["OUTPUT_DIR", str(tmp_path / "out")]
    assert not any(name.endswith("_TTA") for name in tool.main(args))
