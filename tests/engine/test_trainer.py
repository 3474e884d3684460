"""A few iterations from a config, and everything that should come of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from axial_d2.data import DatasetError
from axial_d2.engine import StrictCheckpointer, Trainer
from axial_d2.engine.trainer import CPUAutocastTrainer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import SimpleTrainer
from torch import Tensor

MakeCfg = Callable[..., CfgNode]


def train(cfg: CfgNode, resume: bool = False) -> Trainer:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def weights(cfg: CfgNode, name: str = "model_final") -> dict[str, Tensor]:
    return torch.load(Path(cfg.OUTPUT_DIR) / f"{name}.pth")["model"]


def assert_equal_weights(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(given[name], tensor), name


def test_training_evaluates_logs_and_saves(tiny_cfg: MakeCfg) -> None:
    cfg = tiny_cfg()
    output_dir = Path(cfg.OUTPUT_DIR)
    output_dir.mkdir()
    before = {k: v.clone() for k, v in Trainer(cfg).model.state_dict().items()}
    trainer = train(cfg)
    assert trainer.iter == cfg.SOLVER.MAX_ITER

    results = trainer._last_eval_results
    assert set(results) >= {"panoptic_seg", "sem_seg", "bbox"}  # "segm" needs an instance
    assert all(0 <= results["panoptic_seg"][k] <= 100 for k in ("PQ", "SQ", "RQ"))

    logged: set[str] = set()
    for line in (output_dir / "metrics.json").read_text().splitlines():
        logged |= json.loads(line).keys()
    assert {"loss_sem_seg", "loss_center", "loss_offset", "total_loss", "lr"} <= logged
    assert {"panoptic_seg/PQ", "sem_seg/mIoU", "bbox/AP"} <= logged
    assert list(output_dir.glob("events.out.tfevents.*"))
    assert (output_dir / "inference" / "predictions.json").is_file()

    trained = weights(cfg)
    changed = {name for name, value in trained.items() if not torch.equal(value, before[name])}
    assert {"backbone.stem.conv1.weight", "sem_seg_head.predictor.weight"} <= changed


def test_evaluation_happens_every_period(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(Trainer, "test", classmethod(lambda cls, cfg, model: seen.append(1) or {}))
    train(tiny_cfg("TEST.EVAL_PERIOD", 2, "SOLVER.MAX_ITER", 5))
    assert len(seen) == 3  # after 2, after 4 and at the end


@pytest.mark.parametrize("optimizer", ["SGD", "RADAM"])
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    tiny_cfg: MakeCfg,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
) -> None:
    """Detectron2's sampler starts anew on resuming, so every batch here is the same one."""
    monkeypatch.setattr(Trainer, "test", classmethod(lambda cls, cfg, model: {}))
    load = Trainer.build_train_loader.__func__

    def same_batch(cls, cfg):
        np.random.seed(0)  # of the sampler
        batch = next(iter(load(cls, cfg)))
        while True:
            yield batch

    monkeypatch.setattr(Trainer, "build_train_loader", classmethod(same_batch))
    opts = ("SEED", 3, "SOLVER.OPTIMIZER", optimizer, "SOLVER.WARMUP_ITERS", 2)
    opts = (*opts, "SOLVER.CHECKPOINT_PERIOD", 2, "INPUT.RANDOM_FLIP", "none")
    opts = (*opts, "SOLVER.MAX_ITER", 4)
    torch.manual_seed(1)
    uninterrupted = tiny_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "a"))
    resumed = tiny_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "b"))
    for cfg in (uninterrupted, resumed):
        Path(cfg.OUTPUT_DIR).mkdir()
    train(uninterrupted)
    # What a run that was killed after two iterations leaves behind.
    state = (Path(uninterrupted.OUTPUT_DIR) / "model_0000001.pth").read_bytes()
    (Path(resumed.OUTPUT_DIR) / "model_0000001.pth").write_bytes(state)
    (Path(resumed.OUTPUT_DIR) / "last_checkpoint").write_text("model_0000001.pth")
    trainer = train(resumed, resume=True)
    assert trainer.start_iter == 2
    assert_equal_weights(weights(resumed), weights(uninterrupted))


def test_resuming_restores_the_optimizer(tiny_cfg: MakeCfg) -> None:
    cfg = tiny_cfg("SOLVER.MAX_ITER", 2, "SOLVER.OPTIMIZER", "ADAM")
    Path(cfg.OUTPUT_DIR).mkdir()
    trained = train(cfg)
    resumed = Trainer(cfg)
    assert not resumed.optimizer.state
    resumed.resume_or_load(resume=True)
    assert len(resumed.optimizer.state) == len(trained.optimizer.state) > 0
    for given, expected in zip(
        resumed.optimizer.state.values(), trained.optimizer.state.values(), strict=True
    ):
        assert given["step"] == expected["step"] == 2
        assert torch.equal(given["exp_avg"], expected["exp_avg"])
    assert resumed.scheduler.last_epoch == 2


def test_a_checkpoint_of_detectron2_0_6_without_optimizer_resumes(tiny_cfg: MakeCfg) -> None:
    cfg = tiny_cfg("SOLVER.MAX_ITER", 2)
    Path(cfg.OUTPUT_DIR).mkdir()
    train(cfg)
    path = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    state = torch.load(path)
    del state["trainer"]["_trainer"]
    torch.save(state, path)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2


def test_without_resume_weights_start_a_new_training(tiny_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = tiny_cfg("SOLVER.MAX_ITER", 2)
    Path(cfg.OUTPUT_DIR).mkdir()
    train(cfg)
    path = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    trainer = Trainer(tiny_cfg("MODEL.WEIGHTS", path, "OUTPUT_DIR", str(tmp_path / "other")))
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0
    assert_equal_weights(trainer.model.state_dict(), weights(cfg))


def test_amp_on_a_cpu_trains_in_bfloat16(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_cfg("SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 2)
    monkeypatch.setattr(Trainer, "test", classmethod(lambda cls, cfg, model: {}))
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    assert isinstance(trainer._trainer, CPUAutocastTrainer)
    dtypes = set()
    trainer.model.sem_seg_head.predictor.register_forward_hook(
        lambda module, inputs, output: dtypes.add(output.dtype)
    )
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert dtypes == {torch.bfloat16}
    assert all(v.isfinite().all() for v in weights(cfg).values())
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_without_amp_the_trainer_is_detectron2s(tiny_cfg: MakeCfg) -> None:
    assert type(Trainer(tiny_cfg())._trainer) is SimpleTrainer


def test_precise_batch_norm_covers_the_logits_norms_too(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "test", classmethod(lambda cls, cfg, model: {}))
    cfg = tiny_cfg(
        "TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2,
        "TEST.EVAL_PERIOD", 1, "SOLVER.MAX_ITER", 1,
    )  # fmt: skip
    Path(cfg.OUTPUT_DIR).mkdir()
    train(cfg)
    variances = {k: v for k, v in weights(cfg).items() if "logit_norm.running_var" in k}
    assert variances
    for name, variance in variances.items():
        assert (variance > 0).all(), name
        assert (variance != 1).all(), name


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("loss", ["loss_center", "loss_offset"])
def test_a_loss_that_is_nan_stops_the_training_by_name(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, loss: str, amp: bool
) -> None:
    cfg = tiny_cfg("SOLVER.MAX_ITER", 5, "SOLVER.AMP.ENABLED", amp)
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    head, name = trainer.model.ins_embed_head, f"{loss.removeprefix('loss_')}_losses"
    compute = getattr(head, name)

    def fail_at_iteration_2(*args):
        (value,) = compute(*args).values()
        return {loss: value * (math.nan if trainer.iter == 2 else 1)}

    monkeypatch.setattr(head, name, fail_at_iteration_2)
    before = {}
    trainer.resume_or_load(resume=False)
    with pytest.raises(FloatingPointError, match=rf"iteration=2!\s.*'{loss}': nan"):
        trainer.train()
    before = trainer.model.state_dict()
    assert all(v.isfinite().all() for v in before.values()), "the weights are not poisoned"
    assert not (Path(cfg.OUTPUT_DIR) / "model_final.pth").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_training(
    tiny_cfg: MakeCfg, write_boxes: Callable, workers: int
) -> None:
    boxes = write_boxes(2)
    damaged = Path(boxes[1]) / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    cfg = boxes_cfg(tiny_cfg, boxes, "DATALOADER.NUM_WORKERS", workers)
    Path(cfg.OUTPUT_DIR).mkdir()
    with pytest.raises(DatasetError, match=rf"Image {damaged} cannot be decoded"):
        train(cfg)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_evaluation(
    tiny_cfg: MakeCfg, write_boxes: Callable, workers: int
) -> None:
    boxes = write_boxes(2)
    damaged = Path(boxes[1]) / "2.png"
    damaged.write_text("no picture")
    cfg = boxes_cfg(tiny_cfg, boxes, "DATALOADER.NUM_WORKERS", workers)
    with pytest.raises(DatasetError, match=rf"{damaged} cannot be"):
        Trainer.test(cfg, Trainer.build_model(cfg))


def boxes_cfg(tiny_cfg: MakeCfg, boxes: list[str], *opts) -> CfgNode:
    return tiny_cfg(
        "DATASETS.PANOPTIC", [boxes],
        "DATASETS.TRAIN", "('boxes',)",
        "DATASETS.TEST", "('boxes',)",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2,
        *opts,
    )  # fmt: skip


def test_a_data_set_of_one_image_trains_and_evaluates(
    tiny_cfg: MakeCfg, write_boxes: Callable
) -> None:
    cfg = boxes_cfg(tiny_cfg, write_boxes(1), "SOLVER.MAX_ITER", 1)
    Path(cfg.OUTPUT_DIR).mkdir()
    assert "panoptic_seg" in train(cfg)._last_eval_results
    assert len(DatasetCatalog.get("boxes")) == 1


def test_checkpoints_are_strict(tiny_cfg: MakeCfg) -> None:
    assert isinstance(Trainer(tiny_cfg()).checkpointer, StrictCheckpointer)


RETINANET = (
    "MODEL.BACKBONE.NAME", "build_retinanet_axial_resnet_fpn_backbone",
    "MODEL.AXIAL_RESNET.OUTPUT_STRIDE", 32,
    "MODEL.AXIAL_RESNET.OUT_FEATURES", ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS", 16,
    "MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.RETINANET.NUM_CLASSES", 5,
    "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]],
)  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "opts"),
    [
        ("PanopticDeepLab", ()),
        ("RetinaNet", RETINANET),
    ],
)
def test_other_meta_architectures_train_on_the_same_data(
    tiny_cfg: MakeCfg, architecture: str, opts: tuple
) -> None:
    cfg = tiny_cfg("MODEL.META_ARCHITECTURE", architecture, *opts, "SOLVER.MAX_ITER", 1)
    cfg.MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY = 32  # Detectron2's needs whole strides
    Path(cfg.OUTPUT_DIR).mkdir()
    results = train(cfg)._last_eval_results
    assert results.keys() & {"panoptic_seg", "bbox"}
