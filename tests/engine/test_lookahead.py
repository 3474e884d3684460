"""Lookahead by its definition, around every optimizer."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
from axial_d2.engine.setup import load_config
from axial_d2.lookahead import Lookahead
from axial_d2.solver import OPTIMIZERS, build_lr_scheduler, build_optimizer
from tiny_lookahead import ON, MakeCfg, assert_equal, lookahead_cfg, make_module, step, values
from torch import nn

CONFIGS = Path(__file__).parents[2] / "configs"


# What Lookahead is


def test_two_cycles_worked_out_by_hand(tiny_cfg: MakeCfg) -> None:
    """Gradient (1, -2), rate 0.5: each step goes (-0.5, +1); a cycle of two, a quarter of it."""
    module = nn.Linear(2, 1, bias=False)
    module.weight.data = torch.tensor([[1.0, 2.0]])
    sgd = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 0.5, "SOLVER.MOMENTUM", 0.0)
    optimizer = build_optimizer(lookahead_cfg(tiny_cfg, 2, 0.25, *sgd), module)
    seen = []
    for _ in range(5):
        optimizer.zero_grad()
        module(torch.tensor([[1.0, -2.0]])).backward()
        optimizer.step()
        seen.append(module.weight.tolist()[0])
    assert seen == [
        [0.5, 3.0],
        [0.75, 2.5],  # not (0, 4), but a quarter of the way there from (1, 2)
        [0.25, 3.5],
        [0.5, 3.0],  # not (-0.25, 4.5), but a quarter of the way there from (0.75, 2.5)
        [0.0, 4.0],
    ]
    assert optimizer.state[module.weight]["slow_params"].tolist() == [[0.5, 3.0]]


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_each_optimizer_follows_the_definition(tiny_cfg: MakeCfg, name: str) -> None:
    """Against plain optimizer steps, with the interpolation written out."""
    cfg = lookahead_cfg(tiny_cfg, 3, 0.5, "SOLVER.OPTIMIZER", name)
    given, expected = make_module(), make_module()
    expected.load_state_dict(given.state_dict())
    optimizer = build_optimizer(cfg, given)
    assert type(optimizer) is Lookahead
    assert type(optimizer.optimizer).__name__.upper() == name
    inner = build_optimizer(tiny_cfg("SOLVER.OPTIMIZER", name), expected)
    slow = values(expected)
    for iteration in range(1, 11):
        step(given, optimizer, iteration)
        step(expected, inner, iteration)
        if iteration % 3 == 0:
            slow = [s + 0.5 * (p - s) for s, p in zip(slow, values(expected), strict=True)]
            for parameter, value in zip(expected.parameters(), slow, strict=True):
                parameter.data.copy_(value)
        for a, b in zip(values(given), values(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 4])
def test_alpha_1_is_the_inner_optimizer(tiny_cfg: MakeCfg, steps: int) -> None:
    given, expected = make_module(), make_module()
    expected.load_state_dict(given.state_dict())
    optimizer = build_optimizer(lookahead_cfg(tiny_cfg, steps, 1.0), given)
    inner = build_optimizer(tiny_cfg(), expected)
    for iteration in range(10):
        step(given, optimizer, iteration)
        step(expected, inner, iteration)
        assert_equal(values(given), values(expected))


def test_alpha_0_comes_back_to_the_start_after_every_cycle(tiny_cfg: MakeCfg) -> None:
    for steps in (1, 3):
        module = make_module()
        start = values(module)
        optimizer = build_optimizer(lookahead_cfg(tiny_cfg, steps, 0.0), module)
        for iteration in range(1, 10):
            step(module, optimizer, iteration)
            at_start = all(torch.equal(a, b) for a, b in zip(values(module), start, strict=True))
            assert at_start == (iteration % steps == 0)


def test_weights_loaded_after_building_are_where_the_first_cycle_starts(
    tiny_cfg: MakeCfg,
) -> None:
    """As Detectron2 does: it builds the optimizer before it loads MODEL.WEIGHTS."""
    given, expected = make_module(), make_module()
    early = build_optimizer(lookahead_cfg(tiny_cfg, 2, 0.5), given)
    given.load_state_dict(expected.state_dict())
    late = build_optimizer(lookahead_cfg(tiny_cfg, 2, 0.5), expected)
    for iteration in range(5):
        step(given, early, iteration)
        step(expected, late, iteration)
    assert_equal(values(given), values(expected))


# What is built around it


def test_schedules_move_the_inner_rate(tiny_cfg: MakeCfg) -> None:
    cfg = lookahead_cfg(tiny_cfg, 2, 0.5, "SOLVER.WARMUP_ITERS", 4, "SOLVER.WARMUP_FACTOR", 0.5)
    module = make_module()
    optimizer = build_optimizer(cfg, module)
    assert isinstance(optimizer, torch.optim.Optimizer)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for iteration in range(5):
        rates.append(optimizer.optimizer.param_groups[0]["lr"] / cfg.SOLVER.BASE_LR)
        step(module, optimizer, iteration)
        scheduler.step()
    line = (0.5, 0.625, 0.75, 0.875, 1.0)
    assert rates == pytest.approx([line[i] * (1 - i / 12) ** 0.9 for i in range(5)])


def test_gradients_are_clipped_before_the_inner_step(tiny_cfg: MakeCfg) -> None:
    clip = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5)
    sgd = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 1.0)
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(2.0)
    optimizer = build_optimizer(lookahead_cfg(tiny_cfg, 5, 0.5, *clip, *sgd), module)
    (module(torch.full((1, 1), 100.0)) * 7).sum().backward()
    optimizer.step()
    assert module.weight.item() == 1.5


def test_a_step_that_the_loss_scaler_skips_is_no_step_of_the_cycle(tiny_cfg: MakeCfg) -> None:
    given, expected = make_module(), make_module()
    expected.load_state_dict(given.state_dict())
    optimizers = [build_optimizer(lookahead_cfg(tiny_cfg, 2, 0.5), m) for m in (given, expected)]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for iteration, factor in enumerate((1.0, float("inf"), 1.0, 1.0)):
        inputs = torch.full((1, 3), iteration + 1.0)
        for optimizer, module in zip(optimizers, (given, expected), strict=True):
            optimizer.zero_grad()
            loss = module(inputs).square().sum()
            if module is given:
                scaler.scale(loss * factor).backward()
                scaler.step(optimizer)
                scaler.update()
            elif factor == 1:
                loss.backward()
                optimizer.step()
    assert_equal(values(given), values(expected))
    assert [o.param_groups[0]["counter"] for o in optimizers] == [1, 1]


# What it refuses


@pytest.mark.parametrize(
    ("steps", "alpha", "message"),
    [
        (0, 0.5, r"steps is 0; SOLVER.LOOKAHEAD.STEPS must be 1 or more"),
        (-1, 0.5, r"steps is -1; SOLVER.LOOKAHEAD.STEPS"),
        (5, -0.1, r"alpha is -0.1; SOLVER.LOOKAHEAD.ALPHA must be in \[0, 1\]"),
        (5, 1.1, r"alpha is 1.1; SOLVER.LOOKAHEAD.ALPHA"),
        (5, float("nan"), r"alpha is nan; SOLVER.LOOKAHEAD.ALPHA"),
    ],
)
def test_values_out_of_range(tiny_cfg: MakeCfg, steps: int, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_optimizer(lookahead_cfg(tiny_cfg, steps, alpha), make_module())
    off = lookahead_cfg(tiny_cfg, steps, alpha, "SOLVER.LOOKAHEAD.ENABLED", False)
    build_optimizer(off, make_module())


def test_states_with_and_without_lookahead_do_not_mix(tiny_cfg: MakeCfg) -> None:
    module = make_module()
    with_lookahead = build_optimizer(lookahead_cfg(tiny_cfg, 2, 0.5), module)
    without = build_optimizer(tiny_cfg(), module)
    with pytest.raises(ValueError, match=r"without Lookahead: set .*ENABLED False"):
        with_lookahead.load_state_dict(without.state_dict())
    with pytest.raises(ValueError, match=r"with Lookahead: set .*ENABLED True"):
        without.load_state_dict(with_lookahead.state_dict())
    without.load_state_dict(build_optimizer(tiny_cfg(), module).state_dict())


def test_a_missing_package_is_named(tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "axial_d2.lookahead")
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ImportError, match=r"pip install 'pytorch-optimizer>=4.1', or set SOLVER"):
        build_optimizer(tiny_cfg(*ON), make_module())
    build_optimizer(tiny_cfg(), make_module())


@pytest.mark.parametrize(("max_iter", "told"), [(10, False), (12, True)])
def test_a_training_that_ends_within_a_cycle_is_told_so(
    tiny_cfg: MakeCfg, caplog: pytest.LogCaptureFixture, max_iter: int, told: bool
) -> None:
    cfg = lookahead_cfg(tiny_cfg, 5, 0.5, "SOLVER.MAX_ITER", max_iter)
    with caplog.at_level(logging.WARNING):
        build_optimizer(cfg, make_module())
    assert (
        f"MAX_ITER {max_iter} is no multiple of SOLVER.LOOKAHEAD.STEPS 5" in caplog.text
    ) is told


# The configs


@pytest.mark.parametrize("name", ["coco/axial_deeplab_s.yaml", "cityscapes/axial_deeplab_l.yaml"])
def test_the_papers_configs_train_with_radam_lookahead_and_a_linear_warm_up(name: str) -> None:
    cfg = load_config(str(CONFIGS / name))
    optimizer = build_optimizer(cfg, make_module())
    assert type(optimizer) is Lookahead
    assert type(optimizer.optimizer) is torch.optim.RAdam
    assert (optimizer.k, optimizer.alpha) == (5, 0.5)
    for length in (cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD):
        assert length % optimizer.k == 0
    scheduler = build_lr_scheduler(cfg, optimizer)
    for iteration in range(1002):
        if iteration in (0, 1, 500, 999, 1000, 1001):
            warm_up = min(0.001 + 0.999 * iteration / 1000, 1)
            poly = (1 - iteration / cfg.SOLVER.MAX_ITER) ** 0.9
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001 * warm_up * poly)
        optimizer.step()
        scheduler.step()


def test_the_demo_trains_without_lookahead() -> None:
    cfg = load_config(
        str(CONFIGS / "demo" / "axial_deeplab_demo.yaml"), ["DATASETS.PANOPTIC", "[]"]
    )
    assert type(build_optimizer(cfg, make_module())) is torch.optim.AdamW
