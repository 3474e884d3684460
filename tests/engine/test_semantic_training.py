"""Semantic segmentation on the demo's data by config alone, through the training tool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from axial_d2.data.synthetic import SplitPaths
from axial_d2.engine import Trainer
from axial_d2.engine.checks import check_config
from axial_d2.engine.setup import load_config
from detectron2.config import CfgNode

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "demo"
NAMES = [
    "dual_attention/dual_attention",
    "dual_attention/convolutions",
    "scale_attention/attention",
    "scale_attention/average",
    "scale_attention/maximum",
    "scale_attention/single_scale",
]
TINY = [
    *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "INPUT.CROP.SIZE", "(32,32)"),
    *("MODEL.AXIAL_RESNET.WIDTH_MULTIPLIER", "0.0625", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "8"),
    *("MODEL.SCALE_ATTENTION.CHANNELS", "8", "MODEL.DEVICE", "cpu"),
]


@pytest.fixture
def options(demo_files: Path, tmp_path: Path) -> list[str]:
    paths = [SplitPaths.of(demo_files, split) for split in ("train", "val")]
    registered = [
        [f"axial_d2_demo_{s.split}", *map(str, (s.images, s.panoptic, s.panoptic_json))]
        for s in paths
    ]
    return ["DATASETS.PANOPTIC", repr(registered), "OUTPUT_DIR", str(tmp_path), *TINY]


@pytest.fixture
def demo_cfg(options: list[str]) -> Callable[..., CfgNode]:
    def make(name: str, *opts: object) -> CfgNode:
        return load_config(str(CONFIGS / f"{name}.yaml"), [*options, *map(str, opts)])

    return make


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_is_evaluated(demo_cfg: Callable[..., CfgNode], name: str) -> None:
    trainer = Trainer(demo_cfg(name))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert 0 <= trainer._last_eval_results["sem_seg"]["mIoU"] <= 100


def test_windows_and_augmentation_by_config(demo_cfg: Callable[..., CfgNode]) -> None:
    cfg = demo_cfg(
        "dual_attention/dual_attention",
        *("TEST.SLIDING_WINDOW.ENABLED", True, "TEST.SLIDING_WINDOW.SIZE", "(48,48)"),
        *("TEST.SLIDING_WINDOW.STRIDE", "(32,32)", "TEST.AUG.ENABLED", True),
        *("TEST.AUG.SCALES", "(0.5,1.0)"),
    )
    check_config(cfg)
    model = Trainer.build_model(cfg)
    assert model.window_size == (48, 48)
    assert set(Trainer.test(cfg, model)) == {"sem_seg"}
    assert set(Trainer.test_with_TTA(cfg, model)) == {"sem_seg_TTA"}


def test_the_training_tool(options: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    config = ["--config-file", str(CONFIGS / "scale_attention" / "attention.yaml")]
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train_net.py"), *config, *options],
        env=environment,
        check=True,
        capture_output=True,
    )
    lines = (tmp_path / "metrics.json").read_text(encoding="utf-8").splitlines()
    written = {key for line in lines for key in json.loads(line)}
    assert {"loss_scale_1", "loss_scale_0.75", "loss_scale_0.5", "sem_seg/mIoU"} <= written


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 9), "NUM_CLASSES is 9, but .* has 10 classes"),
        (("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 254), "IGNORE_VALUE is 254"),
    ],
)
@pytest.mark.parametrize("name", [NAMES[0], NAMES[2]])
def test_disagreements_are_found_before_work(
    demo_cfg: Callable[..., CfgNode], name: str, opts: tuple, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(demo_cfg(name, *opts))
