"""Tiny modules trained with Lookahead, and comparison to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

MakeCfg = Callable[..., CfgNode]
ON = ("SOLVER.LOOKAHEAD.ENABLED", True)


def lookahead_cfg(tiny_cfg: MakeCfg, steps: int, alpha: float, *opts) -> CfgNode:
    keys = ("SOLVER.LOOKAHEAD.STEPS", steps, "SOLVER.LOOKAHEAD.ALPHA", alpha)
    return tiny_cfg(*ON, *keys, "SOLVER.MAX_ITER", 12, *opts)


def make_module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """A training step on the batch of that seed."""
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    module(inputs).square().sum().backward()
    optimizer.step()


def values(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def assert_equal(given: Any, expected: Any, where: str = "") -> None:
    """The same to the bit, through mappings and lists."""
    assert type(given) is type(expected), where
    if isinstance(expected, Tensor):
        assert torch.equal(given, expected), where
    elif isinstance(expected, dict):
        assert given.keys() == expected.keys(), where
        for key in expected:
            assert_equal(given[key], expected[key], f"{where} {key}")
    elif isinstance(expected, (list, tuple)):
        assert len(given) == len(expected), where
        for index, pair in enumerate(zip(given, expected, strict=True)):
            assert_equal(*pair, f"{where} {index}")
    else:
        assert given == expected, where
