"""Optimizers and schedules by name, over Detectron2's builders."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

OptimizerFactory = Callable[[CfgNode, list], torch.optim.Optimizer]

# Parameters of this name have no weight decay; norms have SOLVER.WEIGHT_DECAY_NORM.
RELATIVE_TABLES = (
    "query_table",
    "key_table",
    "value_table",
    "row_table",
    "column_table",
    "row_embedding",
    "column_embedding",
    "mixture_embedding",
)


def _sgd(cfg: CfgNode, parameters: list) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters, cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV
    )


OPTIMIZERS: dict[str, OptimizerFactory] = {
    "SGD": _sgd,
    "ADAM": lambda cfg, parameters: torch.optim.Adam(parameters, cfg.SOLVER.BASE_LR, foreach=True),
    "ADAMW": lambda cfg, parameters: torch.optim.AdamW(
        parameters, cfg.SOLVER.BASE_LR, foreach=True
    ),
    "RADAM": lambda cfg, parameters: torch.optim.RAdam(
        parameters, cfg.SOLVER.BASE_LR, foreach=True
    ),
}
SCHEDULERS = ("WarmupPolyLR", "WarmupCosineLR", "WarmupMultiStepLR")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer ``cfg.SOLVER.OPTIMIZER``, without weight decay on norms and relative tables.

    Learning rates, decays and gradient clipping follow Detectron2's ``cfg.SOLVER`` keys.
    ``cfg.SOLVER.LOOKAHEAD`` puts :class:`axial_d2.lookahead.Lookahead` around it.

    Raises:
        ValueError: an unknown optimizer, or values that Lookahead does not take; on loading, the
            state of an optimizer with Lookahead in one without, or the reverse.
        ImportError: Lookahead without the package pytorch-optimizer.
    """
    name = cfg.SOLVER.OPTIMIZER
    if name not in OPTIMIZERS:
        raise ValueError(f"SOLVER.OPTIMIZER is {name!r}; it must be one of {tuple(OPTIMIZERS)}.")
    parameters = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        overrides={table: {"weight_decay": 0.0} for table in RELATIVE_TABLES},
    )
    optimizer = maybe_add_gradient_clipping(cfg, OPTIMIZERS[name](cfg, parameters))
    if cfg.SOLVER.LOOKAHEAD.ENABLED:
        return _with_lookahead(cfg, optimizer)
    optimizer.register_load_state_dict_pre_hook(_refuse_lookahead_state)
    return optimizer


def _with_lookahead(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    try:
        from axial_d2.lookahead import Lookahead
    except ModuleNotFoundError as error:
        raise ImportError(
            "SOLVER.LOOKAHEAD.ENABLED needs a package: pip install 'pytorch-optimizer>=4.1', or "
            "set SOLVER.LOOKAHEAD.ENABLED False."
        ) from error
    steps = cfg.SOLVER.LOOKAHEAD.STEPS
    lookahead = Lookahead(optimizer, steps, cfg.SOLVER.LOOKAHEAD.ALPHA)
    if cfg.SOLVER.MAX_ITER % steps:
        logging.getLogger(__name__).warning(
            "SOLVER.MAX_ITER %d is no multiple of SOLVER.LOOKAHEAD.STEPS %d: the final model will "
            "have fast weights, not Lookahead's slow ones.",
            cfg.SOLVER.MAX_ITER,
            steps,
        )
    return lookahead


def _refuse_lookahead_state(_: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    if "lookahead_state" in state:
        raise ValueError(
            "The checkpoint to resume from was trained with Lookahead: set "
            "SOLVER.LOOKAHEAD.ENABLED True, or start anew from its weights (MODEL.WEIGHTS, "
            "without --resume)."
        )


class PolyLR(WarmupPolyLR):
    """DeepLab's poly schedule, whose length is the config's also after resuming.

    Detectron2 restores the length from the checkpoint, so that a training resumed with a larger
    ``MAX_ITER`` ends in a "math domain error". Detectron2's other schedules keep the same state.
    """

    def state_dict(self) -> dict[str, Any]:
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: state_dict[key] for key in self.state_dict()})


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer):
    """The schedule ``cfg.SOLVER.LR_SCHEDULER_NAME``: poly, cosine or steps, with warm-up.

    Raises:
        ValueError: an unknown schedule.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in SCHEDULERS:
        raise ValueError(f"SOLVER.LR_SCHEDULER_NAME is {name!r}; it must be one of {SCHEDULERS}.")
    if name != "WarmupPolyLR":
        return build_detectron2_lr_scheduler(cfg, optimizer)
    return PolyLR(
        optimizer,
        cfg.SOLVER.MAX_ITER,
        warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
        warmup_iters=cfg.SOLVER.WARMUP_ITERS,
        warmup_method=cfg.SOLVER.WARMUP_METHOD,
        power=cfg.SOLVER.POLY_LR_POWER,
        constant_ending=cfg.SOLVER.POLY_LR_CONSTANT_ENDING,
    )
