"""RetinaNets with attention in FPN and head, trained from a config on the demo's instances."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from axial_d2.engine import Trainer
from axial_d2.engine.checks import check_config
from axial_d2.engine.trainer import CPUAutocastTrainer
from axial_d2.layers import LocalAttention
from detectron2.config import CfgNode
from detectron2.utils import comm

MakeCfg = Callable[..., CfgNode]
ATTENTION_RETINANET = (
    "MODEL.META_ARCHITECTURE", "AttentionRetinaNet",
    "MODEL.BACKBONE.NAME", "build_retinanet_axial_resnet_attention_fpn_backbone",
    "MODEL.AXIAL_RESNET.OUTPUT_STRIDE", 32,
    "MODEL.AXIAL_RESNET.OUT_FEATURES", ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS", 16,
    "MODEL.FPN.TOP_INPUT", "p5",
    "MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.RETINANET.NUM_CLASSES", 5,
    "MODEL.RETINANET.NORM", "BN",
    "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]],
)  # fmt: skip


@pytest.mark.parametrize("amp", [False, True])
def test_trains_and_measures_boxes(tiny_cfg: MakeCfg, amp: bool) -> None:
    cfg = tiny_cfg(*ATTENTION_RETINANET, "SOLVER.MAX_ITER", 2, "SOLVER.AMP.ENABLED", amp)
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    assert isinstance(trainer._trainer, CPUAutocastTrainer) == amp
    dtypes = set()
    # Steps of p6 and p7, maps of a pixel here, may be too small for float32.
    layers = {
        name: module
        for name, module in trainer.model.named_modules()
        if isinstance(module, LocalAttention) and "top_block" not in name
    }
    for layer in layers.values():
        layer.register_forward_hook(lambda _, __, output: dtypes.add(output.dtype))
    before = {name: layer.qkv.weight.detach().clone() for name, layer in layers.items()}
    trainer.train()
    assert (torch.bfloat16 in dtypes) == amp
    for name, layer in layers.items():
        assert layer.qkv.weight.isfinite().all(), name
        assert not torch.equal(layer.qkv.weight, before[name]), name
    average_precision = trainer._last_eval_results["bbox"]["AP"]
    assert math.isnan(average_precision) or 0 <= average_precision <= 100


def test_the_number_of_classes_is_checked(tiny_cfg: MakeCfg) -> None:
    cfg = tiny_cfg(*ATTENTION_RETINANET, "MODEL.RETINANET.NUM_CLASSES", 7)
    with pytest.raises(ValueError, match=r"MODEL.RETINANET.NUM_CLASSES is 7.* has 5 classes"):
        check_config(cfg)


@pytest.mark.parametrize("node", ["FPN", "RETINANET"])
def test_sync_bn_on_several_cpu_processes_is_refused(
    tiny_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    cfg = tiny_cfg(*ATTENTION_RETINANET, f"MODEL.{node}.NORM", "SyncBN")
    with pytest.raises(ValueError, match=rf"MODEL.{node}.NORM is SyncBN.*naiveSyncBN"):
        check_config(cfg)
