"""Exponential moving average of the weights, by ``SOLVER.EMA``."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

# In a checkpoint: what the trainer keeps of this hook, and the weights in it.
HOOK = "EMAHook"
TRAINED = "trained"


class EMAHook(HookBase):
    """Averages the weights of a model after every step, with PyTorch's ``AveragedModel``.

    The average of step 1 is the model after it; from then on average ← decay · average +
    (1 - decay) · model. With Lookahead it is the model's weights of the moment that are averaged,
    fast or slow.

    The running statistics of a batch norm belong to the weights that they were collected with, so
    that those of the last few steps do not fit averaged weights: by default floating-point
    buffers are averaged like parameters. Norms whose momentum is as small as 1 - decay average
    over the same time already, and would be averaged twice. Other buffers, such as counters, are
    always the model's.

    A checkpoint has the averaged weights as its "model", which is what evaluation and other
    trainings want, and the trained ones in this hook's state, with which a resumed training
    continues exactly.

    Args:
        model: in training, or one in DistributedDataParallel. Every process keeps its own
            average, on the model's device.
        decay: from 0 (the model itself) to below 1. An average reaches back about
            1 / (1 - decay) steps; default 0.9999.
        buffers: whether running statistics are averaged (default) or the model's newest.

    Raises:
        ValueError: ``decay`` out of range.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, buffers: bool = True):
        check_decay(decay)
        self._model = model.module if isinstance(model, DistributedDataParallel) else model
        self._average = AveragedModel(
            self._model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=buffers
        )

    @property
    def model(self) -> nn.Module:
        """With the averaged weights; before the first step, with those in training."""
        return self._average.module if self._average.n_averaged > 0 else self._model

    def after_step(self) -> None:
        self._average.update_parameters(self._model)
        for averaged, buffer in zip(
            self._average.module.buffers(), self._model.buffers(), strict=True
        ):
            if not buffer.is_floating_point():
                averaged.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        return {TRAINED: self._model.state_dict(), "steps": int(self._average.n_averaged)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues a checkpoint, whose "model" has been loaded into the model before."""
        # In training mode or not, as it was; non-persistent buffers are constants.
        self._average.module.load_state_dict(self._model.state_dict())
        self._average.n_averaged.fill_(state["steps"])
        self._model.load_state_dict(state[TRAINED])


def build_ema(cfg: CfgNode, model: nn.Module) -> EMAHook | None:
    """The hook that ``SOLVER.EMA`` asks for, None where it is off.

    Raises:
        ValueError: ``SOLVER.EMA.DECAY`` out of range.
    """
    node = cfg.SOLVER.EMA
    return EMAHook(model, node.DECAY, node.BUFFERS) if node.ENABLED else None


def check_decay(decay: float) -> None:
    """Raises ValueError for a decay out of range."""
    if not 0 <= decay < 1:
        raise ValueError(f"SOLVER.EMA.DECAY is {decay}; it must be from 0 to below 1.")


def check_resumed(state: dict[str, Any], enabled: bool) -> None:
    """That a trainer's state in a checkpoint fits ``SOLVER.EMA.ENABLED``.

    Raises:
        ValueError: the checkpoint was trained with an average and the training has none; the
            weights that its optimizer's state belongs to would be lost.
    """
    averaged = HOOK in state.get("hooks", {})
    if averaged and not enabled:
        raise ValueError(
            "The checkpoint to resume from was trained with SOLVER.EMA: set SOLVER.EMA.ENABLED "
            "True, or start anew from its averaged weights (MODEL.WEIGHTS, without --resume)."
        )
    if enabled and not averaged:
        logging.getLogger(__name__).warning(
            "The checkpoint to resume from has no averaged weights; the average of SOLVER.EMA "
            "begins now."
        )
