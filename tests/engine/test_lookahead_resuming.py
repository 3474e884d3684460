"""Lookahead resumed in the middle of a cycle, and which weights get published."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from axial_d2.solver import OPTIMIZERS, build_optimizer
from detectron2.config import CfgNode
from resuming import leave_behind, train
from tiny_lookahead import MakeCfg, assert_equal, lookahead_cfg, make_module, step, values


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Through a file, as checkpoints go."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("done", [1, 3, 4, 5])  # cycles of 4
def test_an_optimizer_resumes_exactly(tiny_cfg: MakeCfg, name: str, done: int) -> None:
    cfg = lookahead_cfg(tiny_cfg, 4, 0.3, "SOLVER.OPTIMIZER", name)
    module = make_module()
    optimizer = build_optimizer(cfg, module)
    for iteration in range(done):
        step(module, optimizer, iteration)
    state, weights = saved(optimizer.state_dict()), saved(module.state_dict())
    for iteration in range(done, 11):
        step(module, optimizer, iteration)

    resumed_module = make_module()
    resumed = build_optimizer(cfg, resumed_module)
    resumed_module.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert_equal(resumed.state_dict(), saved(state))
    for iteration in range(done, 11):
        step(resumed_module, resumed, iteration)
    assert_equal(values(resumed_module), values(module))
    assert_equal(resumed.state_dict(), optimizer.state_dict())
    assert len(resumed.state) == 4
    assert resumed.param_groups[0]["counter"] == 11 % 4


def test_a_state_saved_before_the_first_step_loads(tiny_cfg: MakeCfg) -> None:
    module = make_module()
    cfg = lookahead_cfg(tiny_cfg, 1, 0.0)
    optimizer = build_optimizer(cfg, module)
    state = saved(optimizer.state_dict())
    step(module, optimizer, 0)
    optimizer.load_state_dict(state)
    assert not optimizer.state
    for parameter in module.parameters():
        parameter.data.fill_(0.5)
    step(module, optimizer, 1)
    assert all((value == 0.5).all() for value in values(module))


@pytest.mark.usefixtures("fixed_batches")
@pytest.mark.parametrize("steps", [2, 5])
def test_a_training_resumed_within_a_cycle_is_the_uninterrupted_one(
    tiny_cfg: MakeCfg, tmp_path: Path, steps: int
) -> None:
    """7 iterations at once, or 3 and 4: weights, moments, slow weights, position and rates."""
    opts = ("SOLVER.OPTIMIZER", "RADAM", "SOLVER.WARMUP_ITERS", 5, "SOLVER.CHECKPOINT_PERIOD", 3)

    def cfg_in(folder: str) -> CfgNode:
        folder = str(tmp_path / folder)
        cfg = lookahead_cfg(tiny_cfg, steps, 0.5, *opts, "OUTPUT_DIR", folder)
        cfg.SOLVER.MAX_ITER = 7
        return cfg

    whole, whole_rates = train(cfg_in("whole"), seed=1)
    interrupted = cfg_in("interrupted")
    leave_behind(Path(cfg_in("whole").OUTPUT_DIR), Path(interrupted.OUTPUT_DIR))
    resumed, resumed_rates = train(interrupted, seed=2)

    assert resumed.start_iter == 3
    assert resumed.optimizer.param_groups[0]["counter"] == 7 % steps
    assert_equal(resumed.model.state_dict(), whole.model.state_dict())
    assert_equal(resumed.optimizer.state_dict(), whole.optimizer.state_dict())
    assert_equal(resumed.scheduler.state_dict(), whole.scheduler.state_dict())
    assert resumed_rates == {i: rate for i, rate in whole_rates.items() if i >= 3}
    assert len(set(whole_rates.values())) == 7
    files = [
        torch.load(tmp_path / folder / "model_final.pth") for folder in ("whole", "interrupted")
    ]
    assert_equal(files[1]["model"], files[0]["model"])
    assert_equal(files[1]["trainer"]["_trainer"], files[0]["trainer"]["_trainer"])


@pytest.mark.usefixtures("fixed_batches")
def test_published_weights_are_slow_after_whole_cycles_and_fast_within(
    tiny_cfg: MakeCfg, tmp_path: Path
) -> None:
    cfg = lookahead_cfg(tiny_cfg, 2, 0.5, "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 3)
    trainer, _ = train(cfg, seed=1)
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    order = [names[p] for group in trainer.optimizer.param_groups for p in group["params"]]
    for name, equal in (("model_final", True), ("model_0000002", False)):
        state = torch.load(Path(cfg.OUTPUT_DIR) / f"{name}.pth")
        slow = state["trainer"]["_trainer"]["optimizer"]["lookahead_state"].values()
        pairs = [(state["model"][n], s["slow_params"]) for n, s in zip(order, slow, strict=True)]
        assert all(torch.equal(*pair) for pair in pairs) is equal
