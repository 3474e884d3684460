"""Optimizers and schedules by name, over Detectron2's builders."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab import build_lr_scheduler as build_deeplab_lr_scheduler
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

OptimizerFactory = Callable[[CfgNode, list], torch.optim.Optimizer]

# Parameters of this name have no weight decay; norms have SOLVER.WEIGHT_DECAY_NORM.
RELATIVE_TABLES = ("query_table", "key_table", "value_table")


def _sgd(cfg: CfgNode, parameters: list) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters, cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV
    )


OPTIMIZERS: dict[str, OptimizerFactory] = {
    "SGD": _sgd,
    "ADAM": lambda cfg, parameters: torch.optim.Adam(parameters, cfg.SOLVER.BASE_LR),
    "ADAMW": lambda cfg, parameters: torch.optim.AdamW(parameters, cfg.SOLVER.BASE_LR),
    "RADAM": lambda cfg, parameters: torch.optim.RAdam(parameters, cfg.SOLVER.BASE_LR),
}
SCHEDULERS = ("WarmupPolyLR", "WarmupCosineLR", "WarmupMultiStepLR")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer ``cfg.SOLVER.OPTIMIZER``, without weight decay on norms and relative tables.

    Learning rates, decays and gradient clipping follow Detectron2's ``cfg.SOLVER`` keys.

    Raises:
        ValueError: an unknown optimizer.
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
    return maybe_add_gradient_clipping(cfg, OPTIMIZERS[name](cfg, parameters))


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer):
    """The schedule ``cfg.SOLVER.LR_SCHEDULER_NAME``: poly, cosine or steps, with warm-up.

    Raises:
        ValueError: an unknown schedule.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in SCHEDULERS:
        raise ValueError(f"SOLVER.LR_SCHEDULER_NAME is {name!r}; it must be one of {SCHEDULERS}.")
    return build_deeplab_lr_scheduler(cfg, optimizer)
