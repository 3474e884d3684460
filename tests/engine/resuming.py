"""A training that was killed after three iterations, and the same resumed."""

from __future__ import annotations

from pathlib import Path

import torch
from axial_d2.engine import Trainer
from detectron2.config import CfgNode
from detectron2.engine import HookBase


class Rates(HookBase):
    """The learning rate of every iteration."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def before_step(self) -> None:
        self.seen[self.trainer.iter] = self.trainer.optimizer.param_groups[0]["lr"]


def train(cfg: CfgNode, seed: int) -> tuple[Trainer, dict[int, float]]:
    """Trains, resuming if there is something, from weights of that seed."""
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    torch.manual_seed(seed)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    rates = Rates()
    trainer.register_hooks([rates])
    trainer.train()
    return trainer, rates.seen


def leave_behind(whole: Path, interrupted: Path) -> None:
    """What a run that was killed after three iterations leaves behind, from one that was not."""
    interrupted.mkdir()
    (interrupted / "model_0000002.pth").write_bytes((whole / "model_0000002.pth").read_bytes())
    (interrupted / "last_checkpoint").write_text("model_0000002.pth")
