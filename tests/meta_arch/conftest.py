"""A tiny Axial-DeepLab, targets for it, and a demo data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import axial_d2  # noqa: F401  bridges an old Detectron2, so it comes before the rest
import numpy as np
import pytest
import torch
from axial_d2.data import make_demo_dataset, register_demo_dataset
from axial_d2.data.targets import PanopticTargetGenerator
from axial_d2.engine.setup import load_config
from axial_d2.meta_arch import AxialDeepLab
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

CONFIGS = Path(__file__).parents[2] / "configs"
TINY_CONFIG = str(Path(__file__).parents[1] / "engine" / "tiny.yaml")


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    make_demo_dataset(root, seed=5, num_train=4, num_val=12)
    return root


@pytest.fixture
def tiny_dataset(demo_files: Path) -> Iterator[str]:
    """Registers ``tiny_train`` and ``tiny_val``, the demo data set with few pictures."""
    names = register_demo_dataset(demo_files, "tiny")
    yield names[1]
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def tiny_cfg(tiny_dataset: str, tmp_path: Path) -> Callable[..., CfgNode]:
    """``tiny_cfg(KEY, VALUE, …)``: the tiny config with changes."""

    def make(*opts) -> CfgNode:
        return load_config(TINY_CONFIG, ["OUTPUT_DIR", str(tmp_path), *opts])

    return make


@pytest.fixture
def build(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., AxialDeepLab]:
    """``build(KEY, VALUE, …)``: a tiny model whose norms and heads have seen something."""

    def make(*opts) -> AxialDeepLab:
        model = build_model(tiny_cfg(*opts))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # Residual branches start at 0; small, they count without making chaos.
                module.weight.data += torch.rand_like(module.weight) * 0.4
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.normal_(module.running_mean, std=0.1)
        for name, parameter in model.named_parameters():
            if "predictor.weight" in name:
                nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return make


@pytest.fixture
def training_example() -> Callable[..., dict]:
    """``training_example(height, width, segments)``: an image of noise with targets.

    ``segments`` are (class, top, left, bottom, right) or (…, "crowd"), later ones on top.
    Classes 0 … 4 are things.
    """

    def make(height: int, width: int, segments: list[tuple]) -> dict:
        panoptic = np.zeros((height, width), int)
        infos = []
        for index, (category, top, left, bottom, right, *crowd) in enumerate(segments, start=1):
            panoptic[top:bottom, left:right] = index
            infos.append({"id": index, "category_id": category, "iscrowd": int(bool(crowd))})
        generator = PanopticTargetGenerator(255, range(5), sigma=3)
        return {
            "image": torch.randint(256, (3, height, width)).byte(),
            **generator(panoptic, infos),
        }

    return make


@pytest.fixture
def paper_cfg() -> Iterator[Callable[..., CfgNode]]:
    """``paper_cfg("coco/axial_deeplab_s.yaml", KEY, VALUE, …)`` with a stand-in for the data."""
    name = "stand_in_for_the_papers_data"
    MetadataCatalog.get(name).set(thing_dataset_id_to_contiguous_id={1: 0})

    def make(config_file: str, *opts) -> CfgNode:
        train = ("DATASETS.TRAIN", f"('{name}',)")
        return load_config(str(CONFIGS / config_file), [*train, *opts])

    yield make
    MetadataCatalog.remove(name)
