"""Every variable of a DeepLab2 checkpoint is used once or listed, every tensor of ours filled."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from axial_d2.engine.setup import load_config
from axial_d2.weights import deeplab2_layouts as layouts
from axial_d2.weights.core import WeightsError, shapes_of
from axial_d2.weights.deeplab2 import DeepLab2Format
from axial_d2.weights.formats import convert as convert_any
from axial_d2.weights.formats import recognise
from deeplab2_checkpoints import (
    SUFFIX,
    Arrays,
    encoder,
    imagenet_checkpoint,
    panoptic_checkpoint,
    with_adam_slots,
    with_stacked_decoder,
)
from deeplab2_models import (
    CONFIGS,
    LAYOUTS,
    PANOPTIC,
    build,
    checkpoint,
    convert,
    random_image,
    relative_error,
    run,
    source_of,
)
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from numpy_deeplab2 import NumpyDeepLab2
from torch import nn

COUNTERS = {f"{name}{SUFFIX}" for name in ("global_step", "save_counter", "optimizer/iter")}


def backbone_config(*options: Any) -> CfgNode:
    keys = ["MODEL.DEVICE", "cpu", "MODEL.AXIAL_RESNET.SPAN", 0, *options]
    return load_config(str(CONFIGS / "axial_deeplab_s.yaml"), keys)


def trained(arrays: Arrays) -> int:
    """Numbers that an optimizer changes."""
    return sum(a.size for name, a in arrays.items() if "/moving_" not in name and a.ndim)


# The writer of the tests against the counts of the design facts.
def test_the_checkpoints_have_deeplab2s_numbers_of_parameters() -> None:
    assert trained(panoptic_checkpoint("axial_deeplab", 0.5, 1.0)) == 12_455_910
    assert trained(encoder("axial_deeplab", 0.5, 1.0, 1.0, 0)) == 11_565_856
    assert trained(encoder("axial_resnet", 0.5, 1.0, 1.0, 0)) == 11_466_912
    assert trained(encoder("max_deeplab_s", 1.0, 1.0, 1.0, 0)) == 41_343_424


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_variable_for_each_tensor_and_nothing_left_over(name: str) -> None:
    model, arrays = build(name), checkpoint(name)
    source, known = source_of(arrays), DeepLab2Format()
    rules = known.rules(model, source)
    assert {len(rule.source) for rule in rules} == {1}
    for names in ([rule.source[0] for rule in rules], [rule.target for rule in rules]):
        assert max(Counter(names).values()) == 1
    report = convert(arrays, model)
    counters = COUNTERS & arrays.keys()
    assert set(report.used) == arrays.keys() - counters
    assert report.ignored.keys() == counters
    wanted = {n for n in shapes_of(model) if not n.endswith("num_batches_tracked")}
    if name not in PANOPTIC:
        wanted = {n for n in wanted if n.startswith("backbone.")}
    assert set(report.filled) == wanted
    assert not [*report.unused, *report.missing, *report.skipped, *report.notes]


@pytest.mark.parametrize("name", LAYOUTS)
def test_optimizers_and_counters_are_listed_with_the_reason(name: str) -> None:
    arrays = with_adam_slots(checkpoint(name))
    report, plain = convert(arrays, build(name)), convert(checkpoint(name), build(name))
    assert report.ignored.keys() == arrays.keys() - set(plain.used)
    slots = {reason for n, reason in report.ignored.items() if "OPTIMIZER_SLOT" in n}
    assert slots == {"a slot of the optimizer"}
    assert all(torch.equal(report.converted[n], plain.converted[n]) for n in plain.converted)


def test_the_stacked_decoder_is_ignored_by_name() -> None:
    """max_deeplab_l_backbone up to res5 is axial_swidernet with layer multiplier 1."""
    arrays = with_stacked_decoder(checkpoint("axial_swidernet"))
    report = convert(arrays, build("axial_swidernet"))
    reasons = {r for n, r in report.ignored.items() if "_decoder_stage" in n}
    assert len(reasons) == 1
    assert "MaX-DeepLab-L" in reasons.pop()
    assert report.used == convert(checkpoint("axial_swidernet"), build("axial_swidernet")).used


@pytest.mark.parametrize(("multiplier", "config"), [(3.0, "x3"), (4.5, "x4.5")])
def test_deeper_swidernets(multiplier: float, config: str) -> None:
    node = "MODEL.AXIAL_SWIDERNET"
    keys: list[Any] = [f"{node}.WIDTH_MULTIPLIER", 0.0625, f"{node}.STEM_WIDTH_MULTIPLIER", 0.25]
    cfg = load_config(
        str(CONFIGS / f"axial_swidernet_{config}.yaml"), ["MODEL.DEVICE", "meta", *keys]
    )
    with torch.device("meta"):
        model = build_model(cfg)
    arrays = panoptic_checkpoint("axial_swidernet", 0.0625, 0.25, multiplier)
    report = convert(arrays, model)
    assert set(report.used) == arrays.keys() - COUNTERS
    assert all(name.endswith("num_batches_tracked") for name in report.unfilled)


def test_heads_that_the_model_lacks_are_listed() -> None:
    backbone = build("max_deeplab_s").backbone
    report = convert(checkpoint("max_deeplab_s"), backbone)
    reasons = set(report.ignored.values())
    assert reasons >= {"the model lacks a sem_seg_head", "the model lacks a ins_embed_head"}
    assert all(name.startswith("encoder/") for name in report.used)


def test_a_head_for_other_classes_keeps_its_initial_values() -> None:
    model = build("max_deeplab_s", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7)
    report = convert(checkpoint("max_deeplab_s"), model)
    assert set(report.skipped) == {f"sem_seg_head.predictor.{n}" for n in ("weight", "bias")}


def test_a_backbone_inside_of_a_detector() -> None:
    holder = nn.Module()
    holder.backbone = nn.Module()
    holder.backbone.bottom_up = build("axial_resnet").backbone
    report = convert(checkpoint("axial_resnet"), holder)
    assert all(name.startswith("backbone.bottom_up.") for name in report.filled)


@pytest.mark.parametrize(
    ("layout", "width", "stem_width"),
    [
        ("axial_resnet", 0.25, 0.5),
        ("axial_deeplab", 0.25, 0.25),
        ("max_deeplab_s", 0.25, 0.5),
        ("axial_swidernet", 0.125, 0.25),
    ],
)
def test_the_config_of_a_backbone_follows_from_its_checkpoint(
    layout: str, width: float, stem_width: float
) -> None:
    arrays = with_adam_slots(imagenet_checkpoint(layout, width, stem_width))
    cfg = backbone_config(*DeepLab2Format().options(source_of(arrays)))
    backbone = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    report = convert(arrays, backbone)
    assert not DeepLab2Format().notes(backbone)
    assert all(name.endswith("num_batches_tracked") for name in report.unfilled)


def test_a_panoptic_checkpoint_needs_a_config() -> None:
    assert DeepLab2Format().options(source_of(checkpoint("max_deeplab_s"))) == []


def test_fewer_blocks_are_no_backbone_of_deeplab2s() -> None:
    arrays = imagenet_checkpoint("max_deeplab_s", 0.25, 0.25)
    arrays = {n: a for n, a in arrays.items() if "_stage4/_block6" not in n}
    with pytest.raises(WeightsError, match=r"\(3, 4, 5, 3\) blocks"):
        DeepLab2Format().options(source_of(arrays))


OTHERS = {
    ("max_deeplab_s", "axial_deeplab"): ("stage 2 of 3 axial blocks", "stage 2 of 3 bottleneck"),
    ("axial_deeplab", "axial_swidernet"): (
        "a stem of 16 channels, stage 1 of 3 basic",
        "32, 32, 64",
    ),
    ("axial_swidernet", "max_deeplab_s"): ("stage 4 of 5 axial and 1 bottleneck", "1 basic"),
    ("axial_resnet", "axial_deeplab"): ("a stem of 32, 32, 64", "a stem of 32 channels"),
}


@pytest.mark.parametrize(("model", "given"), OTHERS)
def test_weights_of_another_backbone_are_refused(model: str, given: str) -> None:
    theirs, ours = OTHERS[model, given]
    with pytest.raises(WeightsError, match=rf"{theirs}.*; the model has .*{ours}"):
        convert(checkpoint(given), build(model))


def test_a_missing_and_an_unknown_variable_are_named() -> None:
    arrays = dict(checkpoint("max_deeplab_s"))
    lost = f"encoder/_stage5/_block1/_attention/_height_axis/qkv_kernel{SUFFIX}"
    arrays[f"encoder/_stage3/_squeeze/kernel{SUFFIX}"] = arrays.pop(lost)
    with pytest.raises(WeightsError) as error:
        convert(arrays, build("max_deeplab_s"))
    assert lost in str(error.value)
    assert "encoder/_stage3/_squeeze/kernel" in str(error.value)


def test_another_width_is_refused_with_the_channels() -> None:
    model = build("max_deeplab_s", "MODEL.MAX_DEEPLAB_S.WIDTH_MULTIPLIER", 0.5)
    with pytest.raises(WeightsError, match=r"\(512 channels\); the model has .*\(1024 channels\)"):
        convert(checkpoint("max_deeplab_s"), model)


def test_blocks_that_deeplab2_lacks_are_named() -> None:
    cfg = backbone_config(
        "MODEL.BACKBONE.NAME", "build_local_attention_resnet_backbone",
        "MODEL.LOCAL_ATTENTION_RESNET.WIDTH_MULTIPLIER", 0.25,
    )  # fmt: skip
    with pytest.raises(WeightsError, match=r"res2\.0 of the model is neither an axial nor"):
        convert(checkpoint("axial_resnet"), build_backbone(cfg, ShapeSpec(channels=3)))


def test_decoders_without_low_level_features_are_named() -> None:
    two: list[Any] = [
        key_value
        for head in ("SEM_SEG_HEAD", "INS_EMBED_HEAD")
        for key_value in (
            f"MODEL.{head}.IN_FEATURES", ["res2", "res5"],
            f"MODEL.{head}.PROJECT_FEATURES", ["res2"],
            f"MODEL.{head}.PROJECT_CHANNELS", [32],
        )
    ]  # fmt: skip
    with pytest.raises(WeightsError, match=r"lacks sem_seg_head\.decoder\.res3\.project_conv"):
        convert(checkpoint("max_deeplab_s"), build("max_deeplab_s", *two))


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        (["MODEL.SEM_SEG_HEAD.NORM_EPS", 1e-5], ["NORM_EPS 0.001, the model has 1e-05"]),
        (["MODEL.AXIAL_RESNET.NORM_EPS", 1e-5], ["NORM_EPS 0.001, the model has 1e-05"]),
        (["MODEL.AXIAL_RESNET.STRIDING", "avg_pool"], ["STRIDING subsample"]),
        (["MODEL.AXIAL_RESNET.STEM", "deeplab"], ["no max-pool"]),
        (["MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0]], ["PIXEL_MEAN 127.5"]),
        (["MODEL.PIXEL_STD", [1.0, 1.0, 1.0]], ["PIXEL_STD 127.5"]),
        (["MODEL.PANOPTIC_DEEPLAB.ALIGN_CORNERS", False], ["ALIGN_CORNERS True"]),
    ],
)
def test_what_no_shape_shows_is_noted(options: list[Any], notes: list[str]) -> None:
    found = DeepLab2Format().notes(build("axial_deeplab", *options))
    assert len(found) == len(notes)
    for given, expected in zip(found, notes, strict=True):
        assert expected in given


def test_deeplab2s_checkpoints_are_recognised() -> None:
    for name in LAYOUTS:
        assert recognise(checkpoint(name).keys()).name == DeepLab2Format.name
    assert not DeepLab2Format().recognises(["encoder/_stem/conv1.weight", "layer1.0.conv1.weight"])


def test_the_whole_way_by_the_formats_table() -> None:
    model = build("max_deeplab_s")
    report = convert_any(source_of(checkpoint("max_deeplab_s")), model)
    model.load_state_dict(report.converted, strict=False)
    expected = NumpyDeepLab2(checkpoint("max_deeplab_s"))(random_image())
    assert relative_error(run(model, random_image())["offset"], expected["offset"]) < 1e-3


def test_layouts_by_hand() -> None:
    kernel = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)  # height, width, in, out
    assert layouts.kernel_to_weight(kernel)[4, 3, 1, 2] == kernel[1, 2, 3, 4]
    depthwise = kernel[..., :1]
    assert layouts.depthwise_to_weight(depthwise)[3, 0, 1, 2] == depthwise[1, 2, 3, 0]
    matrix = torch.arange(6).view(2, 3)
    assert layouts.matrix_to_weight(matrix).shape == (3, 2, 1, 1)
    assert layouts.matrix_to_weight(matrix)[2, 1] == matrix[1, 2]
    terms = torch.tensor(np.arange(6).reshape(3, 1, 2, 1, 1))
    assert layouts.flat(terms).tolist() == [0, 1, 2, 3, 4, 5]
    high_low = torch.tensor([1, 2, 3, 8, 9])
    given = layouts.low_level_first(high_low, lambda tensor: tensor, low_channels=2, dim=0)
    assert given.tolist() == [8, 9, 1, 2, 3]
