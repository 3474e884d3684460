"""Schedules by their values, optimizers by what they decay."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from axial_d2.solver import OPTIMIZERS, SCHEDULERS, build_lr_scheduler, build_optimizer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

MakeCfg = Callable[..., CfgNode]

WARMUP, LAST, BASE = 10, 100, 0.5
COMMON = (
    "SOLVER.BASE_LR", BASE,
    "SOLVER.MAX_ITER", LAST,
    "SOLVER.WARMUP_ITERS", WARMUP,
    "SOLVER.WARMUP_FACTOR", 0.1,
    "SOLVER.STEPS", (60, 90),
    "SOLVER.OPTIMIZER", "SGD",
)  # fmt: skip


def rates(cfg: CfgNode) -> list[float]:
    """The learning rate of every iteration."""
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    scheduler = build_lr_scheduler(cfg, optimizer)
    result = []
    for _ in range(LAST):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def poly(iteration: int) -> float:
    return BASE * (1 - iteration / LAST) ** 0.9


def cosine(iteration: int) -> float:
    return BASE * 0.5 * (1 + math.cos(math.pi * iteration / LAST))


@pytest.mark.parametrize(("name", "curve"), [("WarmupPolyLR", poly), ("WarmupCosineLR", cosine)])
def test_poly_and_cosine_follow_their_curves_after_the_warm_up(
    tiny_cfg: MakeCfg, name: str, curve: Callable[[int], float]
) -> None:
    given = rates(tiny_cfg(*COMMON, "SOLVER.LR_SCHEDULER_NAME", name))
    for iteration in (WARMUP, WARMUP + 1, 37, 50, LAST - 1):
        assert given[iteration] == pytest.approx(curve(iteration)), iteration
    assert given[: WARMUP + 1] == sorted(given[: WARMUP + 1])
    assert given[WARMUP:] == sorted(given[WARMUP:], reverse=True)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_warm_up_is_a_line(tiny_cfg: MakeCfg, name: str) -> None:
    """From a tenth of the base rate; to the curve's value at its end, or times poly's curve."""
    given = rates(tiny_cfg(*COMMON, "SOLVER.LR_SCHEDULER_NAME", name))
    if name == "WarmupPolyLR":
        line = [(0.1 + 0.9 * i / WARMUP) * poly(i) for i in range(WARMUP + 1)]
    else:
        end = cosine(WARMUP) if name == "WarmupCosineLR" else BASE
        line = [0.1 * BASE + (end - 0.1 * BASE) * i / WARMUP for i in range(WARMUP + 1)]
    assert given[: WARMUP + 1] == pytest.approx(line)


def test_steps_divide_by_ten(tiny_cfg: MakeCfg) -> None:
    given = rates(tiny_cfg(*COMMON, "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"))
    assert given[WARMUP] == given[59] == pytest.approx(BASE)
    assert given[60] == given[89] == pytest.approx(BASE / 10)
    assert given[90] == given[-1] == pytest.approx(BASE / 100)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_longer_training_resumes_on_its_own_curve(tiny_cfg: MakeCfg, name: str) -> None:
    cfg = tiny_cfg(*COMMON, "SOLVER.LR_SCHEDULER_NAME", name)
    scheduler = build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(1, 1)))
    for _ in range(LAST):
        scheduler.optimizer.step()
        scheduler.step()
    cfg.SOLVER.MAX_ITER = 2 * LAST
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    longer = build_lr_scheduler(cfg, optimizer)
    longer.load_state_dict(scheduler.state_dict())
    for iteration in range(LAST + 1, 2 * LAST + 1):
        optimizer.step()
        longer.step()
        if name == "WarmupPolyLR" and iteration == LAST + 20:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(BASE * 0.4**0.9)
    assert longer.last_epoch == 2 * LAST


@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_warm_up_starts_at_the_base_rate(tiny_cfg: MakeCfg, name: str) -> None:
    cfg = tiny_cfg(*COMMON, "SOLVER.WARMUP_ITERS", 0, "SOLVER.LR_SCHEDULER_NAME", name)
    assert rates(cfg)[0] == pytest.approx(BASE)


def decays(cfg: CfgNode) -> dict[str, float]:
    """Parameter name → its weight decay."""
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    groups = [(p, g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]]
    by_id = {id(p): decay for p, decay in groups}
    assert len(by_id) == len(groups), "a parameter is optimised twice"
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == len(groups), "a parameter is left out, or a frozen one is not"
    return {name: by_id[id(p)] for name, p in trainable.items()}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_norms_and_tables_are_not_decayed(tiny_cfg: MakeCfg, optimizer: str) -> None:
    given = decays(tiny_cfg("SOLVER.OPTIMIZER", optimizer, "SOLVER.WEIGHT_DECAY", 0.25))
    exempt = ("bias", "_table")  # of biases the base config says so
    expected = {name: 0.0 if "norm" in name or name.endswith(exempt) else 0.25 for name in given}
    assert given == expected
    assert sum(name.endswith("_table") for name in expected) == 3 * 2 * 8  # 8 blocks
    assert any("logit_norm" in name for name in expected)


def test_tables_of_windows_and_of_the_attention_stem_are_not_decayed(tiny_cfg: MakeCfg) -> None:
    node = "MODEL.LOCAL_ATTENTION_RESNET"
    given = decays(
        tiny_cfg(
            "SOLVER.WEIGHT_DECAY", 0.25,
            "MODEL.BACKBONE.NAME", "build_local_attention_resnet_backbone",
            f"{node}.DEPTH", 26,
            f"{node}.WIDTH_MULTIPLIER", 0.125,
            f"{node}.STEM", "attention",
            f"{node}.NUM_HEADS", 4,
            f"{node}.STAGE_TYPES", ["local", "local", "local_ps", "axial"],
        )
    )  # fmt: skip
    exempt = {name for name, decay in given.items() if decay == 0 and "norm" not in name}
    tables = {name for name in given if name.endswith(("_table", "_embedding"))}
    assert tables == {name for name in exempt if name.startswith("backbone")}
    # Stem; q·r in res2 and res3; q·r, k·r and the value's in res4; both axes of res5.
    assert len(tables) == 3 + 2 * (1 + 2) + 2 * 3 * 4 + 3 * 2


def test_norms_and_biases_may_be_decayed(tiny_cfg: MakeCfg) -> None:
    opts = ("SOLVER.WEIGHT_DECAY_NORM", 0.5, "SOLVER.WEIGHT_DECAY_BIAS", 0.125)
    given = decays(tiny_cfg("SOLVER.WEIGHT_DECAY", 0.25, *opts))
    assert given["backbone.stem.conv1.norm.weight"] == 0.5
    assert given["sem_seg_head.predictor.bias"] == 0.125
    assert given["backbone.res2.0.height_axis.query_table"] == 0


def test_frozen_parts_are_left_out(tiny_cfg: MakeCfg) -> None:
    given = decays(tiny_cfg("MODEL.BACKBONE.FREEZE_AT", 2))
    assert not any(name.startswith(("backbone.stem", "backbone.res2")) for name in given)
    assert any(name.startswith("backbone.res3") for name in given)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_takes_a_step(tiny_cfg: MakeCfg, name: str) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    optimizer = build_optimizer(tiny_cfg("SOLVER.OPTIMIZER", name), module)
    assert type(optimizer).__name__.upper() == name
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert (module.weight != before).all()


def test_gradients_are_clipped_where_the_config_says_so(tiny_cfg: MakeCfg) -> None:
    cfg = tiny_cfg(
        "SOLVER.OPTIMIZER", "SGD",
        "SOLVER.CLIP_GRADIENTS.ENABLED", True,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5,
    )  # fmt: skip
    module = nn.Linear(1, 1)
    optimizer = build_optimizer(cfg, module)
    (module(torch.full((1, 1), 100.0)) * 7).sum().backward()
    optimizer.step()
    assert module.weight.grad.item() == 0.5


def test_unknown_names_are_answered_with_the_known_ones(tiny_cfg: MakeCfg) -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"SOLVER.OPTIMIZER is 'LION'; .*'SGD', 'ADAM'"):
        build_optimizer(tiny_cfg("SOLVER.OPTIMIZER", "LION"), model)
    cfg = tiny_cfg("SOLVER.LR_SCHEDULER_NAME", "Poly")
    with pytest.raises(ValueError, match=r"LR_SCHEDULER_NAME is 'Poly'; .*'WarmupPolyLR'"):
        build_lr_scheduler(cfg, build_optimizer(cfg, model))
