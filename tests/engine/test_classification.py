"""Training and evaluation of a classifier by config alone, in one process and in two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from axial_d2.data import DatasetError, make_demo_image_folder, register_image_folder
from axial_d2.engine import Trainer
from axial_d2.engine.checks import check_config
from axial_d2.engine.setup import load_config
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

HERE = Path(__file__).parent
CONFIG = str(HERE / "tiny_classification.yaml")
TRAIN_NET = str(HERE.parents[1] / "tools" / "train_net.py")
SPLITS = ("train", "val")
MakeCfg = Callable[..., CfgNode]


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    make_demo_image_folder(root, seed=5, num_train=20, num_val=10)
    return root


def folders(root: Path) -> str:
    return str([[f"tiny_images_{split}", str(root / split)] for split in SPLITS])


@pytest.fixture
def tiny_classifier_cfg(image_folder: Path, tmp_path: Path) -> MakeCfg:
    def make(*opts) -> CfgNode:
        output = str(tmp_path / "out")
        given = ["DATASETS.IMAGE_FOLDERS", folders(image_folder), "OUTPUT_DIR", output, *opts]
        return load_config(CONFIG, given)

    return make


def test_training_evaluates_logs_and_saves(tiny_classifier_cfg: MakeCfg) -> None:
    cfg = tiny_classifier_cfg()
    output = Path(cfg.OUTPUT_DIR)
    output.mkdir()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = trainer._last_eval_results["classification"]
    assert set(results) >= {"top1", "top5", "accuracy-ball", "accuracy-water"}
    assert 0 <= results["top1"] <= results["top5"] <= 100
    logged: set[str] = set()
    for line in (output / "metrics.json").read_text().splitlines():
        logged |= json.loads(line).keys()
    assert {"total_loss", "lr", "classification/top1"} <= logged
    weights = torch.load(output / "model_final.pth")["model"]
    assert weights["linear.weight"].shape[0] == 10
    predictions = json.loads((output / "inference" / "classification_predictions.json").read_text())
    assert len(predictions) == 10
    assert {p["image_id"] for p in predictions} >= {"ball/000000.png", "water/000009.png"}


def test_images_of_two_shapes_with_detectron2s_defaults(
    tiny_classifier_cfg: MakeCfg, tmp_path: Path
) -> None:
    """Aspect ratio grouping and the filter of empty annotations are on in Detectron2."""
    cfg = tiny_classifier_cfg("DATASETS.TEST", "()")
    assert cfg.DATALOADER.ASPECT_RATIO_GROUPING
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    batch = next(iter(Trainer.build_train_loader(cfg)))
    assert [image["image"].shape for image in batch] == [(3, 32, 32)] * 4


def test_test_images_come_in_batches_each_once(tiny_classifier_cfg: MakeCfg) -> None:
    loader = Trainer.build_test_loader(tiny_classifier_cfg(), "tiny_images_val")
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len({image["file_name"] for batch in batches for image in batch}) == 10


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(
    tiny_classifier_cfg: MakeCfg, tmp_path: Path, workers: int
) -> None:
    make_demo_image_folder(tmp_path / "damaged", num_train=10, num_val=10)
    damaged = tmp_path / "damaged" / "train" / "star" / "000007.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    register_image_folder("damaged", tmp_path / "damaged" / "train")
    cfg = tiny_classifier_cfg(
        "DATASETS.TRAIN", "('damaged',)",
        "DATASETS.TEST", "('damaged',)",
        "DATALOADER.NUM_WORKERS", workers,
    )  # fmt: skip
    with pytest.raises(DatasetError, match=rf"Image {damaged} cannot be decoded"):
        list(zip(range(6), Trainer.build_train_loader(cfg), strict=False))
    with pytest.raises(DatasetError, match=rf"Image {damaged} cannot be decoded"):
        list(Trainer.build_test_loader(cfg, "damaged"))


def test_another_number_of_classes_is_refused(tiny_classifier_cfg: MakeCfg) -> None:
    check_config(tiny_classifier_cfg())
    message = r"CLASSIFIER.NUM_CLASSES is 7, .*tiny_images_train has 10 classes .*NUM_CLASSES to 10"
    with pytest.raises(ValueError, match=message):
        check_config(tiny_classifier_cfg("MODEL.CLASSIFIER.NUM_CLASSES", 7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: ["cow", "dog", *c[2:]], r"train alone has 2 \(ball, brick\); other alone has 2"),
        (lambda c: c[1:], r"have the same classes, but tiny_images_train alone has 1 \(ball\)\."),
        (lambda c: c[::-1], r"but theirs are in another order; register both"),
    ],
)
def test_classes_of_training_and_test_must_agree(
    tiny_classifier_cfg: MakeCfg, change: Callable[[list[str]], list[str]], message: str
) -> None:
    tiny_classifier_cfg()
    classes = change(MetadataCatalog.get("tiny_images_train").classes)
    DatasetCatalog.register("other", list)
    MetadataCatalog.get("other").set(classes=classes, evaluator_type="classification")
    with pytest.raises(ValueError, match=message):
        check_config(tiny_classifier_cfg("DATASETS.TEST", "('other',)"))


def test_data_sets_without_classes_are_refused(tiny_classifier_cfg: MakeCfg) -> None:
    with pytest.raises(ValueError, match=r"coco_2017_val has no classes of images.*IMAGE_FOLDERS"):
        check_config(tiny_classifier_cfg("DATASETS.TEST", "('coco_2017_val',)"))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("INPUT.CLASSIFICATION.TEST_SIZE", 20), "TEST_SIZE is 20"),
        (("INPUT.CLASSIFICATION.SCALE", (0.0, 1.0)), "SCALE is"),
        (("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"), "Take 'TrainingSampler'"),
        (("TEST.AUG.ENABLED", True), "'ImageClassifier' has no test-time augmentation"),
    ],
)
def test_what_cannot_work_is_refused_first(
    tiny_classifier_cfg: MakeCfg, opts: tuple, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(tiny_classifier_cfg(*opts))


def test_sync_bn_on_several_cpu_processes_is_refused(
    tiny_classifier_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"MODEL.AXIAL_RESNET.NORM is SyncBN"):
        check_config(tiny_classifier_cfg("MODEL.AXIAL_RESNET.NORM", "SyncBN"))


def train_net(processes: int, root: Path, output: Path, *opts: str) -> dict[str, float]:
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    finished = subprocess.run(
        [sys.executable, *launcher, TRAIN_NET, "--config-file", CONFIG, *opts,
         "DATASETS.IMAGE_FOLDERS", folders(root), "OUTPUT_DIR", str(output)],
        env={**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    predictions = json.loads((output / "inference" / "classification_predictions.json").read_text())
    return {p["image_id"]: p["scores"] for p in predictions}


def test_two_processes_train_and_evaluate_like_one(image_folder: Path, tmp_path: Path) -> None:
    trained = train_net(2, image_folder, tmp_path / "two", "MODEL.AXIAL_RESNET.NORM", "naiveSyncBN")
    assert len(trained) == 10
    alone = train_net(
        1, image_folder, tmp_path / "one", "--eval-only",
        "MODEL.WEIGHTS", str(tmp_path / "two" / "model_final.pth"),
    )  # fmt: skip
    assert alone.keys() == trained.keys()
    for name, scores in alone.items():
        assert trained[name] == pytest.approx(scores, abs=1e-5)
