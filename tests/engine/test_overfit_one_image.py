"""One image can be learned by heart: everything from mapper to evaluator pulls the same way."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from axial_d2.data import make_demo_dataset
from axial_d2.engine import Trainer
from axial_d2.engine.setup import load_config
from detectron2.utils.env import seed_all_rng

TINY_CONFIG = str(Path(__file__).with_name("tiny.yaml"))


@pytest.fixture
def one_image(tmp_path: Path) -> list[str]:
    """A demo scene of several things and stuff, as an entry of ``DATASETS.PANOPTIC``."""
    make_demo_dataset(tmp_path, seed=5, num_train=1, num_val=1)
    source = tmp_path / "annotations" / "panoptic_train.json"
    (annotation,) = json.loads(source.read_text())["annotations"]
    assert len(annotation["segments_info"]) >= 5
    return ["one", str(tmp_path / "train"), str(tmp_path / "panoptic_train"), str(source)]


@pytest.fixture(autouse=True)
def _no_info() -> Iterator[None]:
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
def test_one_image_is_overfitted_to_pq_95(one_image: list[str], tmp_path: Path) -> None:
    """Half a minute on one core."""
    cfg = load_config(
        TINY_CONFIG,
        [
            "MODEL.AXIAL_RESNET.WIDTH_MULTIPLIER", 0.25,
            "MODEL.AXIAL_RESNET.STEM_WIDTH_MULTIPLIER", 0.25,
            "MODEL.AXIAL_RESNET.MAX_SPAN", 48,
            "MODEL.SEM_SEG_HEAD.CONVS_DIM", 96,
            "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS", 96,
            "MODEL.INS_EMBED_HEAD.CONVS_DIM", 64,
            "MODEL.INS_EMBED_HEAD.HEAD_CHANNELS", 32,
            "MODEL.PANOPTIC_DEEPLAB.STUFF_AREA", 0,
            "DATASETS.PANOPTIC", [one_image],
            "DATASETS.TRAIN", "('one',)",
            "DATASETS.TEST", "('one',)",
            "INPUT.MIN_SIZE_TRAIN", "(0,)",
            "INPUT.RANDOM_FLIP", "none",
            "SOLVER.OPTIMIZER", "ADAM",
            "SOLVER.IMS_PER_BATCH", 1,
            "SOLVER.WARMUP_ITERS", 20,
            "SOLVER.MAX_ITER", 250,
            "OUTPUT_DIR", str(tmp_path / "out"),
        ],
    )  # fmt: skip
    Path(cfg.OUTPUT_DIR).mkdir()
    seed_all_rng(1)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = trainer._last_eval_results
    assert results["panoptic_seg"]["PQ"] > 95
    assert results["panoptic_seg"]["RQ"] == pytest.approx(100)
    assert results["sem_seg"]["mIoU"] > 95
    assert results["segm"]["AP50"] > 95
