"""Configs of classification build the models and follow the protocols that they name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from axial_d2.engine.setup import WITHOUT_FILES, load_config
from axial_d2.meta_arch import ImageClassifier
from axial_d2.solver import build_lr_scheduler, build_optimizer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

CONFIGS = Path(__file__).parents[1] / "configs"
IMAGES = 1_281_167
SASA = [f"sasa_{depth}{stem}" for depth in (26, 38, 50) for stem in ("", "_full")]
# Config → batch, with its share of the learning rate 1.6 at 4096.
BATCHES = {
    **dict.fromkeys((*SASA, "resnet50"), 4096),
    **{f"axial_resnet_{size}": 1024 for size in "sml"},
    "axial_resnet_s_full": 512,
    "axial_resnet_26s": 128,
}
DEMO = sorted(
    path.stem
    for path in (CONFIGS / "demo" / "classification").glob("*.yaml")
    if not path.name.startswith("Base")
)


def load(name: str) -> CfgNode:
    file = str(CONFIGS / f"{name}.yaml")
    return load_config(file, [*WITHOUT_FILES, "MODEL.DEVICE", "cpu"])


def build(cfg: CfgNode) -> nn.Module:
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_config_has_its_batch() -> None:
    files = {path.stem for path in (CONFIGS / "imagenet").glob("[!B]*.yaml")}
    assert files == set(BATCHES)


@pytest.mark.parametrize("name", BATCHES)
def test_the_protocol_is_that_of_130_epochs(name: str) -> None:
    cfg = load(f"imagenet/{name}")
    batch = BATCHES[name]
    assert batch == cfg.SOLVER.IMS_PER_BATCH
    assert pytest.approx(1.6 * batch / 4096) == cfg.SOLVER.BASE_LR
    assert round(130 * IMAGES / batch) == cfg.SOLVER.MAX_ITER
    assert round(10 * IMAGES / batch) == cfg.SOLVER.WARMUP_ITERS
    average = None if name == "axial_resnet_26s" else 0.9999
    assert average == (cfg.SOLVER.EMA.DECAY if cfg.SOLVER.EMA.ENABLED else None)

    model = build(cfg)
    assert isinstance(model, ImageClassifier)
    momenta = {m.momentum for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)}
    assert momenta == {0.1 if average is None else 1e-4}
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.SGD)
    assert {(g["nesterov"], g["momentum"]) for g in optimizer.param_groups} == {(True, 0.9)}
    assert {g["weight_decay"] for g in optimizer.param_groups} == {8e-5, 0.0}


def test_the_learning_rate_rises_for_ten_epochs_and_falls_without_a_jump() -> None:
    cfg = load("imagenet/axial_resnet_s")
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 1300, 100
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(1300):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    top = max(rates)
    assert rates.index(top) in (99, 100)
    assert top == pytest.approx(0.4 * 0.985, rel=1e-3)
    assert rates[0] == 0
    assert rates[50] == pytest.approx(top / 2, rel=0.01)
    assert max(abs(a - b) for a, b in pairwise(rates)) <= 1.01 * top / 100
    assert all(a >= b for a, b in pairwise(rates[100:]))
    assert rates[-1] < 1e-5


@pytest.mark.parametrize(("depth", "parameters"), [(26, 5_944_936), (50, 11_586_216)])
def test_the_authors_models_have_their_parameters(depth: int, parameters: int) -> None:
    """Their tables hold the rows that 224 x 224 images reach, ours a few more in later stages."""
    cfg = load("imagenet/axial_resnet_26s")
    cfg.MODEL.AXIAL_RESNET.DEPTH = depth
    model = build(cfg)
    unused = 0
    for name, parameter in model.named_parameters():
        if not name.endswith("_table"):
            continue
        stage, block = int(name.split(".")[1][3]), int(name.split(".")[2])
        # A block that strides does so after its attention.
        length = 56 // 2 ** (stage - 2) * (2 if stage > 2 and block == 0 else 1)
        unused += (len(parameter) - (2 * length - 1)) * parameter.shape[1]
    assert 0 < unused < 0.03 * parameters
    assert count(model) - unused == parameters


@pytest.mark.parametrize("name", DEMO)
def test_the_demos_classifiers_have_the_backbones_of_its_segmentors(name: str) -> None:
    classifier = build(load(f"demo/classification/{name}")).backbone.state_dict()
    cfg = load("demo/backbones/" + name)
    cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic_separated",)
    segmentor = build(cfg).backbone.state_dict()
    assert classifier.keys() == segmentor.keys()
    assert all(classifier[key].shape == segmentor[key].shape for key in segmentor)
