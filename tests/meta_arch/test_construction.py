"""By config, by plain arguments, by LazyCall; with Detectron2's heads and under its models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from axial_d2.backbone import AxialResNet
from axial_d2.heads import AxialDeepLabInsEmbedHead, AxialDeepLabSemSegHead
from axial_d2.meta_arch import AxialDeepLab
from detectron2.config import CfgNode, instantiate
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.projects.panoptic_deeplab.panoptic_seg import (
    PanopticDeepLab,
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
)
from torch import nn

Build = Callable[..., AxialDeepLab]
MakeCfg = Callable[..., CfgNode]

SEGMENTS = [(7, 0, 0, 32, 48), (1, 4, 4, 20, 30)]
FEATURES = ["res2", "res3", "res5"]


def lazy_model() -> object:
    shapes = {
        name: L(ShapeSpec)(channels=channels, stride=stride)
        for name, channels, stride in (("res2", 32, 4), ("res3", 64, 8), ("res5", 256, 16))
    }
    decoder = {
        "input_shape": shapes,
        "project_channels": [8, 8],
        "decoder_channels": [16, 16, 16],
        "common_stride": 4,
        "norm": "BN",
        "use_depthwise_separable_conv": True,
    }
    return L(AxialDeepLab)(
        backbone=L(AxialResNet)(
            depth=26,
            width_multiplier=0.125,
            max_span=6,
            output_stride=16,
            out_features=FEATURES,
        ),
        sem_seg_head=L(AxialDeepLabSemSegHead)(
            **decoder,
            head_channels=16,
            num_classes=10,
            loss_weight=1.0,
            loss_type="hard_pixel_mining",
            loss_top_k=0.2,
            ignore_value=255,
        ),
        ins_embed_head=L(AxialDeepLabInsEmbedHead)(
            **decoder, head_channels=8, center_loss_weight=200.0, offset_loss_weight=0.01
        ),
        pixel_mean=[123.675, 116.280, 103.530],
        pixel_std=[58.395, 57.120, 57.375],
        thing_classes=[0, 1, 2, 3, 4],
    )


def test_lazy_call_builds_what_the_config_builds(
    build: Build, training_example: Callable[..., dict]
) -> None:
    by_config = build()
    by_lazy_call = instantiate(lazy_model())
    by_lazy_call.load_state_dict(by_config.state_dict())  # strict: the same keys and shapes
    by_lazy_call.eval().stuff_area = by_config.stuff_area
    image = {"image": training_example(32, 48, SEGMENTS)["image"]}
    with torch.no_grad():
        given, expected = by_lazy_call([image])[0], by_config([image])[0]
    assert torch.equal(given["sem_seg"], expected["sem_seg"])
    assert torch.equal(given["panoptic_seg"][0], expected["panoptic_seg"][0])
    losses = by_lazy_call.train()([training_example(32, 48, SEGMENTS)])
    assert len(losses) == 3


def test_normalisation_is_no_part_of_the_checkpoint(build: Build) -> None:
    parts = {key.split(".")[0] for key in build().state_dict()}
    assert parts == {"backbone", "sem_seg_head", "ins_embed_head"}


@pytest.mark.parametrize("head", ["SEM_SEG_HEAD", "INS_EMBED_HEAD"])
def test_features_that_the_backbone_lacks_are_named(tiny_cfg: MakeCfg, head: str) -> None:
    cfg = tiny_cfg(f"MODEL.{head}.IN_FEATURES", "['res2', 'res4', 'res5']")
    with pytest.raises(
        ValueError,
        match=rf"MODEL.{head}.IN_FEATURES \['res2', 'res4', 'res5'\].*missing: \['res4'\]",
    ):
        build_model(cfg)


def test_another_number_of_features(build: Build, training_example: Callable[..., dict]) -> None:
    changes = []
    for head in ("SEM_SEG_HEAD", "INS_EMBED_HEAD"):
        changes += [f"MODEL.{head}.IN_FEATURES", "['res2', 'res5']"]
        changes += [f"MODEL.{head}.PROJECT_CHANNELS", "[8]"]
    losses = build(*changes).train()([training_example(32, 48, SEGMENTS)])
    assert len(losses) == 3


def test_heads_may_differ_in_stride(build: Build, training_example: Callable[..., dict]) -> None:
    model = build(
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res3', 'res5']",
        "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", "[8]",
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "8",
    )  # fmt: skip
    assert len(model.train()([training_example(29, 45, SEGMENTS)])) == 3
    (output,) = model.eval()([{"image": torch.zeros(3, 29, 45)}])
    assert output["sem_seg"].shape == (10, 29, 45)


def uses(module: nn.Module, classes: tuple[type, type]) -> None:
    assert type(module.sem_seg_head) is classes[0]
    assert type(module.ins_embed_head) is classes[1]


OUR_HEADS = (AxialDeepLabSemSegHead, AxialDeepLabInsEmbedHead)
THEIR_HEADS = (PanopticDeepLabSemSegHead, PanopticDeepLabInsEmbedHead)


def test_detectron2s_heads_serve_axial_deeplab(
    build: Build, training_example: Callable[..., dict]
) -> None:
    model = build(
        "MODEL.SEM_SEG_HEAD.NAME", "PanopticDeepLabSemSegHead",
        "MODEL.INS_EMBED_HEAD.NAME", "PanopticDeepLabInsEmbedHead",
    )  # fmt: skip
    uses(model, THEIR_HEADS)
    for size in ((32, 48), (31, 45)):
        losses = model.train()([training_example(*size, SEGMENTS)])
        assert all(loss.isfinite() for loss in losses.values())
        (output,) = model.eval()([{"image": torch.rand(3, *size) * 255}])
        assert output["panoptic_seg"][0].shape == size


def test_our_heads_serve_detectron2s_panoptic_deeplab(
    tiny_cfg: MakeCfg, training_example: Callable[..., dict]
) -> None:
    # Detectron2's post-processing takes the 200 highest of all pixels, however few there are.
    cfg = tiny_cfg(
        "MODEL.META_ARCHITECTURE", "PanopticDeepLab",
        "MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE", "20",
    )  # fmt: skip
    model = build_model(cfg)
    assert type(model) is PanopticDeepLab
    uses(model, OUR_HEADS)
    assert len(model([training_example(32, 48, SEGMENTS)])) == 3
    image = {"image": torch.rand(3, 32, 48) * 255, "height": 32, "width": 48}
    (output,) = model.eval()([image])
    assert output["panoptic_seg"][0].shape == (32, 48)


def test_the_losses_are_those_of_detectron2s_panoptic_deeplab(
    tiny_cfg: MakeCfg, training_example: Callable[..., dict]
) -> None:
    """Same weights, same batch, one process, sizes that both can pad: the same losses."""
    ours = build_model(tiny_cfg())
    theirs = build_model(tiny_cfg("MODEL.META_ARCHITECTURE", "PanopticDeepLab"))
    theirs.load_state_dict(ours.state_dict())
    batch = [training_example(32, 48, SEGMENTS), training_example(16, 32, SEGMENTS)]
    expected = theirs(batch)
    for name, loss in ours(batch).items():
        torch.testing.assert_close(loss, expected[name])


def test_our_semantic_head_serves_detectron2s_semantic_segmentor(
    tiny_cfg: MakeCfg, training_example: Callable[..., dict]
) -> None:
    model = build_model(tiny_cfg("MODEL.META_ARCHITECTURE", "SemanticSegmentor"))
    losses = model([training_example(32, 48, SEGMENTS)])
    assert losses["loss_sem_seg"].isfinite()
    (output,) = model.eval()([{"image": torch.rand(3, 32, 48) * 255, "height": 20, "width": 30}])
    assert output["sem_seg"].shape == (10, 20, 30)


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "naiveSyncBN", "FrozenBN"])
def test_every_norm_trains(build: Build, training_example: Callable[..., dict], norm: str) -> None:
    keys = ("AXIAL_RESNET", "SEM_SEG_HEAD", "INS_EMBED_HEAD")
    model = build(*(x for key in keys for x in (f"MODEL.{key}.NORM", norm))).train()
    losses = model([training_example(32, 48, SEGMENTS), training_example(32, 48, SEGMENTS)])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
