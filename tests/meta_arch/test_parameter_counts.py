"""Every published number of parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from axial_d2.meta_arch import AxialDeepLab
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

DEEPLAB2 = [
    "MODEL.AXIAL_RESNET.STEM", "inception",
    "MODEL.AXIAL_RESNET.STEM_WIDTH_MULTIPLIER", "1.0",
    "MODEL.SEM_SEG_HEAD.DECODER_INPUT", "projection",
    "MODEL.INS_EMBED_HEAD.DECODER_INPUT", "projection",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19",
]  # fmt: skip


@pytest.fixture
def build_paper(paper_cfg: Callable[..., CfgNode]) -> Callable[..., AxialDeepLab]:
    """A model of a config file without memory for its parameters."""

    def make(config_file: str, *opts: str) -> AxialDeepLab:
        cfg = paper_cfg(config_file, *opts, "MODEL.DEVICE", "meta")
        with torch.device("meta"):
            return build_model(cfg)

    return make


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("size", "millions"), [("s", 12.1), ("m", 25.9), ("l", 44.9), ("xl", 173.0)]
)
@pytest.mark.parametrize("dataset", ["coco", "cityscapes"])
def test_the_papers_models(build_paper: Callable, dataset: str, size: str, millions: float) -> None:
    model = build_paper(f"{dataset}/axial_deeplab_{size}.yaml")
    assert count(model) / 1e6 == pytest.approx(millions, rel=0.01)


def test_deeplab2s_model_part_by_part(build_paper: Callable) -> None:
    model = build_paper("cityscapes/axial_deeplab_s.yaml", *DEEPLAB2)
    semantic, instance = model.sem_seg_head, model.ins_embed_head
    assert count(model.backbone) == 11_565_856
    assert count(semantic.decoder) == 456_416
    assert count(semantic.head, semantic.predictor) == 77_843
    assert count(instance.decoder) == 340_464
    assert count(instance.center_head, instance.center_predictor) == 7_649
    assert count(instance.offset_head, instance.offset_predictor) == 7_682
    assert count(model) == 12_455_910


def test_deeplab2s_model_of_width_1(build_paper: Callable) -> None:
    assert count(build_paper("cityscapes/axial_deeplab_l.yaml", *DEEPLAB2)) == 45_286_982
