"""Averaged weights: what the average is, where it is kept, and what is tested."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from axial_d2.data import make_demo_image_folder
from axial_d2.engine import StrictCheckpointer, Trainer
from axial_d2.engine.checks import check_config
from axial_d2.engine.ema import EMAHook
from axial_d2.engine.setup import load_config
from axial_d2.meta_arch.test_time_augmentation import AxialDeepLabWithTTA
from axial_d2.weights.reading import read_tensors
from detectron2.config import CfgNode
from resuming import leave_behind, train
from tiny_lookahead import MakeCfg, assert_equal, lookahead_cfg
from torch import nn

HERE = Path(__file__).parent
ON = ("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 0.75)


class Counting(nn.Module):
    """With everything that a state dict may hold: statistics, a counter, a table of indices."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("indices", torch.arange(7))
        self.register_buffer("allowed", torch.tensor([True, False]))

    def change(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for tensor in (*self.parameters(), self.norm.running_mean, self.norm.running_var):
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator))
        self.norm.num_batches_tracked += 1


@pytest.mark.parametrize("decay", [0.0, 0.75, 0.9999])
@pytest.mark.parametrize("buffers", [True, False])
def test_the_average_is_that_of_a_loop(decay: float, buffers: bool) -> None:
    model = Counting()
    parameters = [name for name, _ in model.named_parameters()]
    hook = EMAHook(model, decay, buffers)
    expected: dict[str, Any] = {}
    for seed in range(6):
        model.change(seed)
        hook.after_step()
        for name, tensor in model.state_dict().items():
            new = tensor.double() if tensor.is_floating_point() else tensor.clone()
            averaged = tensor.is_floating_point() and (buffers or name in parameters)
            if name in expected and averaged:
                new = decay * expected[name] + (1 - decay) * new
            expected[name] = new
    given = hook.model.state_dict()
    assert given.keys() == expected.keys()
    for name, tensor in given.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=0, atol=1e-6)
        else:
            assert torch.equal(tensor, expected[name]), name
    assert given["norm.num_batches_tracked"] == 6


def test_before_the_first_step_it_is_the_model_and_the_start_leaves_no_trace() -> None:
    model = Counting()
    hook = EMAHook(model, 0.9)
    model.change(1)  # what is loaded later than the hook is built
    assert hook.model is model
    hook.after_step()
    assert hook.model is not model
    assert_equal(hook.model.state_dict(), model.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"EMA.DECAY is {decay}; it must be from 0 to below 1"):
        EMAHook(Counting(), decay)


def test_the_config_is_checked_first(tiny_cfg: MakeCfg) -> None:
    with pytest.raises(ValueError, match=r"DECAY is 1\.5"):
        check_config(tiny_cfg(*ON, "SOLVER.EMA.DECAY", 1.5))
    with pytest.raises(ValueError, match=r"PRECISE_BN.ENABLED computes statistics for the weights"):
        check_config(tiny_cfg(*ON, "TEST.PRECISE_BN.ENABLED", True))
    check_config(tiny_cfg("SOLVER.EMA.DECAY", 1.5))


@pytest.mark.usefixtures("fixed_batches")
@pytest.mark.parametrize("amp", [False, True])
def test_a_resumed_training_is_the_uninterrupted_one(
    tiny_cfg: MakeCfg, tmp_path: Path, amp: bool
) -> None:
    """Weights, averages, moments and Lookahead's slow weights, to the bit."""
    opts = (*ON, "SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.AMP.ENABLED", amp)

    def cfg_in(folder: str) -> CfgNode:
        cfg = lookahead_cfg(tiny_cfg, 2, 0.5, *opts, "OUTPUT_DIR", str(tmp_path / folder))
        cfg.SOLVER.MAX_ITER = 6
        return cfg

    whole, _ = train(cfg_in("whole"), seed=1)
    leave_behind(tmp_path / "whole", tmp_path / "interrupted")
    resumed, _ = train(cfg_in("interrupted"), seed=2)
    assert resumed.start_iter == 3
    for given, expected in (
        (resumed.model, whole.model),
        (resumed.ema.model, whole.ema.model),
        (resumed.optimizer, whole.optimizer),
    ):
        assert_equal(given.state_dict(), expected.state_dict())
    files = [torch.load(tmp_path / run / "model_final.pth") for run in ("whole", "interrupted")]
    assert_equal(*files)
    assert files[0]["trainer"]["hooks"]["EMAHook"]["steps"] == 6


@pytest.fixture
def trained(tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> tuple[Trainer, list[Any]]:
    """Trained for four iterations; and the weights that were tested, after two and at the end."""
    tested: list[Any] = []

    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        network = model.model if isinstance(model, AxialDeepLabWithTTA) else model
        tested.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"panoptic_seg": {"PQ": 0.0}}

    monkeypatch.setattr(Trainer, "test", classmethod(test))
    cfg = tiny_cfg(
        *ON, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EVAL_PERIOD", 2,
        "TEST.AUG.ENABLED", True, "TEST.AUG.SCALES", (1.0,),
    )  # fmt: skip
    return train(cfg, seed=1)[0], tested


def test_what_is_tested_and_saved_is_the_average(
    trained: tuple[Trainer, list[Any]], tiny_cfg: MakeCfg
) -> None:
    trainer, tested = trained
    averaged = trainer.ema.model.state_dict()
    newest = trainer.model.state_dict()
    assert any(not torch.equal(newest[name], averaged[name]) for name in newest)
    output = Path(trainer.cfg.OUTPUT_DIR)
    assert len(tested) == 3  # the last with test-time augmentation
    assert_equal(tested[0], dict(torch.load(output / "model_0000001.pth")["model"]))
    assert_equal(tested[1], dict(averaged))
    assert_equal(tested[2], dict(averaged))

    final = output / "model_final.pth"
    checkpoint = torch.load(final)
    assert_equal(checkpoint["model"], averaged)
    assert_equal(checkpoint["trainer"]["hooks"]["EMAHook"]["trained"], newest)
    assert_equal(read_tensors(final), dict(averaged))
    # What --eval-only and MODEL.WEIGHTS of another training do.
    model = Trainer.build_model(tiny_cfg())
    StrictCheckpointer(model).load(str(final))
    assert_equal(dict(model.state_dict()), dict(averaged))


def test_resuming_with_and_without_averages(
    trained: tuple[Trainer, list[Any]], tiny_cfg: MakeCfg, caplog: pytest.LogCaptureFixture
) -> None:
    without = tiny_cfg("SOLVER.MAX_ITER", 6)
    with pytest.raises(ValueError, match=r"was trained with SOLVER\.EMA: set SOLVER"):
        Trainer(without).resume_or_load(resume=True)

    trainer = Trainer(without)
    trainer.resume_or_load(resume=False)
    trainer.checkpointer.save("plain", iteration=0)
    resumed = Trainer(tiny_cfg(*ON, "SOLVER.MAX_ITER", 6))
    with caplog.at_level(logging.WARNING, logger="axial_d2.engine.ema"):
        resumed.resume_or_load(resume=True)
    assert "has no averaged weights; the average of SOLVER.EMA begins now" in caplog.text
    assert resumed.ema.model is resumed.ema._model


def test_two_processes_test_and_save_the_same_average(tmp_path: Path) -> None:
    make_demo_image_folder(tmp_path / "images", seed=5, num_train=20, num_val=10)
    folders = [[f"tiny_images_{s}", str(tmp_path / "images" / s)] for s in ("train", "val")]
    config, output = str(HERE / "tiny_classification.yaml"), tmp_path / "out"
    opts = [
        "DATASETS.IMAGE_FOLDERS", str(folders), "OUTPUT_DIR", str(output), *map(str, ON),
        "MODEL.AXIAL_RESNET.NORM", "naiveSyncBN", "SOLVER.BASE_LR", "0.05",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    finished = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(HERE.parents[1] / "tools" / "train_net.py"), "--config-file", config, *opts],
        env={**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    checkpoint = torch.load(output / "model_final.pth")
    newest = checkpoint["trainer"]["hooks"]["EMAHook"]["trained"]
    assert not torch.equal(newest["linear.weight"], checkpoint["model"]["linear.weight"])

    predictions = output / "inference" / "classification_predictions.json"
    in_training = {p["image_id"]: p["scores"] for p in json.loads(predictions.read_text())}
    cfg = load_config(config, [*opts, "MODEL.AXIAL_RESNET.NORM", "BN"])
    model = Trainer.build_model(cfg)
    StrictCheckpointer(model).load(str(output / "model_final.pth"))
    Trainer.test(cfg, model, [Trainer.build_evaluator(cfg, "tiny_images_val", str(tmp_path))])
    alone = json.loads((tmp_path / "classification_predictions.json").read_text())
    assert len(alone) == len(in_training) == 10
    for prediction in alone:
        expected = in_training[prediction["image_id"]]
        assert prediction["scores"] == pytest.approx(expected, abs=1e-5)
