"""``tools/train_net.py``: its options, and the same script under torchrun."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from axial_d2.data import register_demo_dataset
from axial_d2.engine import run_under_torchrun, under_torchrun
from axial_d2.engine import setup as engine_setup
from detectron2.utils import comm
from tool_modules import load_tool

HERE = Path(__file__).parent
TINY_CONFIG = str(HERE / "tiny.yaml")
DRIVER = str(HERE / "log_every_iteration.py")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, demo_files: Path) -> ModuleType:
    """``tools/train_net.py`` as a module, which sets up no logging here."""
    register_demo_dataset(demo_files, "tiny")
    monkeypatch.setattr(
        engine_setup, "default_setup", lambda cfg, args: os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    )
    return load_tool("train_net")


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., argparse.Namespace]:
    def make(*opts, **options) -> argparse.Namespace:
        options = {"config_file": TINY_CONFIG, "resume": False, "eval_only": False, **options}
        return argparse.Namespace(**options, opts=["OUTPUT_DIR", str(tmp_path / "out"), *opts])

    return make


def test_train_then_resume_then_evaluate(
    tool: ModuleType, arguments: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tool.main(arguments("SOLVER.MAX_ITER", 2))
    final = tmp_path / "out" / "model_final.pth"
    assert torch.load(final)["iteration"] == 1

    tool.main(arguments("SOLVER.MAX_ITER", 3, resume=True))
    assert torch.load(final)["iteration"] == 2
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    logged = [json.loads(line) for line in lines if "panoptic_seg/PQ" in line][-1]

    evaluate = arguments("MODEL.WEIGHTS", str(final), eval_only=True)
    results = tool.main(evaluate)
    assert results["panoptic_seg"]["PQ"] == pytest.approx(logged["panoptic_seg/PQ"])
    assert results["sem_seg"]["mIoU"] == pytest.approx(logged["sem_seg/mIoU"])
    assert results.keys() >= {"panoptic_seg", "sem_seg"}


def test_evaluation_verifies_expected_results(tool: ModuleType, arguments: Callable) -> None:
    expected = [["panoptic_seg", "PQ", 99.0, 0.1]]
    with pytest.raises(SystemExit):
        tool.main(arguments("TEST.EXPECTED_RESULTS", expected, eval_only=True))


def test_evaluation_is_checked_first(tool: ModuleType, arguments: Callable) -> None:
    with pytest.raises(ValueError, match="NUM_CLASSES is 7, but the data set"):
        tool.main(arguments("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7, eval_only=True))


def test_the_command_line_is_detectron2s(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(tool, "main", seen.append)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(
        sys, "argv",
        ["train_net.py", "--config-file", "a.yaml", "--num-gpus", "0", "--num-machines", "1",
         "--machine-rank", "0", "--dist-url", "tcp://127.0.0.1:1", "--resume",
         "SOLVER.MAX_ITER", "7"],
    )  # fmt: skip
    tool.run()
    (args,) = seen
    assert (args.config_file, args.resume, args.eval_only) == ("a.yaml", True, False)
    assert args.opts == ["SOLVER.MAX_ITER", "7"]


def test_torchruns_variables_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not under_torchrun()
    monkeypatch.setenv("RANK", "0")
    assert not under_torchrun()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert under_torchrun()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"started 4 processes on a node with 2 GPUs.*at most"):
        run_under_torchrun(print)
    assert comm.get_world_size() == 1


def run(tmp_path: Path, processes: int, *opts: str) -> subprocess.CompletedProcess:
    """Trains in as many processes; output in ``tmp_path / str(processes)``."""
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        [sys.executable, *launcher, DRIVER, "--config-file", TINY_CONFIG, *opts,
         "OUTPUT_DIR", str(tmp_path / str(processes))],
        env={**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "loss" in k} for line in lines if "lr" in line]


def norms(kind: str) -> list[str]:
    nodes = ("AXIAL_RESNET", "SEM_SEG_HEAD", "INS_EMBED_HEAD")
    return [x for node in nodes for x in (f"MODEL.{node}.NORM", kind)]


def test_two_processes_have_the_losses_of_one(tmp_path: Path, write_boxes: Callable) -> None:
    """Gloo on CPUs: the same batches, split in two, cost the same and teach the same."""
    opts = [
        *norms("naiveSyncBN"),
        "MODEL.SEM_SEG_HEAD.LOSS_TOP_K", "1.0",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2",
        "DATASETS.PANOPTIC", str([write_boxes(8)]),
        "DATASETS.TRAIN", "('boxes',)",
        "DATASETS.TEST", "()",
        "DATALOADER.ASPECT_RATIO_GROUPING", "False",
        "INPUT.MIN_SIZE_TRAIN", "(0,)",
        "INPUT.RANDOM_FLIP", "none",
        "SOLVER.IMS_PER_BATCH", "4",
        "SOLVER.OPTIMIZER", "SGD",
        "SOLVER.BASE_LR", "0.0005",
        "SOLVER.MAX_ITER", "4",
        "SEED", "11",
    ]  # fmt: skip
    for processes in (1, 2):
        finished = run(tmp_path, processes, *opts)
        assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    alone, together = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert len(alone) == len(together) == 4
    for iteration, (expected, given) in enumerate(zip(alone, together, strict=True)):
        assert given.keys() == expected.keys() >= {"loss_sem_seg", "loss_center", "loss_offset"}
        for name, value in expected.items():
            assert given[name] == pytest.approx(value, rel=1e-4), (iteration, name)
    # The losses move by far more than the tolerance.
    assert alone[0]["total_loss"] != pytest.approx(alone[-1]["total_loss"], rel=0.02)
    weights = [torch.load(tmp_path / n / "model_final.pth")["model"] for n in ("1", "2")]
    for name, tensor in weights[0].items():
        # One process records unbiased variances and counts batches, several do neither.
        if "running" not in name and tensor.is_floating_point():
            torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_sync_bn_on_several_cpus_is_refused_in_words(tmp_path: Path, write_boxes: Callable) -> None:
    finished = run(
        tmp_path, 2, *norms("SyncBN"), "DATASETS.PANOPTIC", str([write_boxes(1)]),
        "DATASETS.TRAIN", "('boxes',)", "DATASETS.TEST", "()",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2",
    )  # fmt: skip
    assert finished.returncode != 0
    assert "several processes on CPUs need naiveSyncBN" in finished.stderr
