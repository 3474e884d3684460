"""Weights to test, and evaluations that cost nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from axial_d2.engine import Trainer
from axial_d2.engine.scale_stress import evaluate
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode

MakeCfg = Callable[..., CfgNode]


@pytest.fixture
def stress_cfg(tiny_cfg: MakeCfg, tmp_path: Path) -> MakeCfg:
    """The tiny config with weights of a model that predicts several classes."""
    cfg = tiny_cfg()
    model = Trainer.build_model(cfg)
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight, std=5)
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    return lambda *opts: tiny_cfg("MODEL.WEIGHTS", str(tmp_path / "model.pth"), *opts)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Fills with the ratios that are evaluated, which costs nothing; ratio 13 fails."""
    seen: list[float] = []

    def fake(cfg: CfgNode, model: torch.nn.Module, ratio: float, min_side: int) -> dict:
        if ratio == 13:
            raise KeyboardInterrupt
        seen.append(ratio)
        return {"panoptic_seg": {"PQ": 10 * ratio, "PQ_st": math.nan}}

    monkeypatch.setattr(evaluate, "evaluate_at_ratio", fake)
    return seen
