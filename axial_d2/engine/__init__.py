"""Training and inference around Detectron2's own engine."""

from axial_d2.engine.checkpoint import StrictCheckpointer
from axial_d2.engine.distributed import run_under_torchrun, under_torchrun
from axial_d2.engine.trainer import Trainer

__all__ = ["StrictCheckpointer", "Trainer", "run_under_torchrun", "under_torchrun"]
