"""A classifier's checkpoint starts the same backbone in every other meta-architecture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from axial_d2.engine import StrictCheckpointer
from axial_d2.engine.checkpoint import WeightsError
from axial_d2.engine.skeleton import build_without_data
from axial_d2.weights.transfer import resize_table
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from test_detectors import faster_rcnn_c4, mask_rcnn, retinanet, semantic_segmentor
from tiny_backbones import let_branches_speak, tiny_config
from torch import Tensor, nn

LOGGER = "axial_d2.engine.checkpoint"
READERS = ("res2.0.conv1.weight", "res2.0.shortcut.weight")
State = dict[str, Tensor]


def classifier(**keys: object) -> CfgNode:
    cfg = tiny_config(**{"OUT_FEATURES": ["res5"], **keys})
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 7
    return cfg


def segmentor(name: str, head: str, **keys: object) -> CfgNode:
    cfg = tiny_config(**{"OUT_FEATURES": ["res2", "res3", "res5"], "OUTPUT_STRIDE": 16, **keys})
    cfg.MODEL.META_ARCHITECTURE = name
    cfg.MODEL.SEM_SEG_HEAD.NAME = head
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = cfg.MODEL.SEM_SEG_HEAD.HEAD_CHANNELS = 16
    cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    return cfg


def axial_deeplab(**keys: object) -> CfgNode:
    cfg = segmentor("AxialDeepLab", "AxialDeepLabSemSegHead", **keys)
    for node in (cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.INS_EMBED_HEAD):
        node.IN_FEATURES = ["res2", "res3", "res5"]
        node.PROJECT_FEATURES = ["res2", "res3"]
        node.PROJECT_CHANNELS = [8, 8]
        node.CONVS_DIM = node.HEAD_CHANNELS = 16
        node.NORM = "BN"
    for node in (cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.PANOPTIC_DEEPLAB):
        node.USE_DEPTHWISE_SEPARABLE_CONV = True
    return cfg


def one_feature(name: str, head: str = "LinearSemSegHead") -> CfgNode:
    cfg = segmentor(name, head, OUTPUT_STRIDE=8)
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res5"]
    return cfg


MODELS: dict[str, Callable[[], CfgNode]] = {
    "AxialDeepLab": axial_deeplab,
    "ScaleAttentionSegmentor": lambda: one_feature("ScaleAttentionSegmentor"),
    "SlidingWindowSegmentor": lambda: one_feature("SlidingWindowSegmentor"),
    "DANet": lambda: one_feature("SlidingWindowSegmentor", "DualAttentionHead"),
    "SemanticSegmentor": semantic_segmentor,
    "GeneralizedRCNN": mask_rcnn,
    "RetinaNet": retinanet,
    "GeneralizedRCNN without res5": faster_rcnn_c4,
    "ImageClassifier": classifier,
}


def random_state(cfg: CfgNode, seed: int = 1) -> State:
    """Of a model whose tensors are all different from initial ones."""
    torch.manual_seed(seed)
    model = build_model(cfg)
    let_branches_speak(model)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def save(state: State, path: Path) -> str:
    torch.save({"model": state}, path)
    return str(path)


def load(cfg: CfgNode, path: str) -> tuple[nn.Module, State]:
    """The model, and what it was before it was loaded."""
    torch.manual_seed(2)
    model = build_without_data(cfg, device="cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    StrictCheckpointer(model).load(path)
    return model, before


def body(names: State) -> State:
    """The backbone itself, under the classifier's names."""
    plain = {name.replace("backbone.bottom_up.", "backbone."): t for name, t in names.items()}
    kinds = ("backbone.stem.", "backbone.res")
    return {name: t for name, t in plain.items() if name.startswith(kinds)}


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_the_backbone_is_missing_and_the_rest_stays(name: str, tmp_path: Path) -> None:
    source = random_state(classifier())
    model, before = load(MODELS[name](), save(source, tmp_path / "w.pth"))
    loaded = model.state_dict()
    taken = body(loaded)
    lacking = source.keys() - taken.keys()
    if name == "GeneralizedRCNN without res5":
        lacking = {key for key in lacking if not key.startswith("backbone.res5.")}
    assert lacking == {"linear.weight", "linear.bias"}
    assert all(torch.equal(tensor, source[key]) for key, tensor in taken.items())
    changed = {key for key in loaded if not torch.equal(loaded[key], before[key])}
    others = {key for key in changed if "backbone" not in key}
    # A bias is zero before and after.
    assert others == ({"linear.weight"} if name == "ImageClassifier" else set())
    assert not any("fpn_" in key or "top_block" in key for key in changed)


@pytest.mark.parametrize("name", ["AxialDeepLab", "GeneralizedRCNN", "RetinaNet"])
def test_the_way_back(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    trained = build_without_data(MODELS[name](), device="cpu")
    let_branches_speak(trained)
    source = {key: tensor.clone() for key, tensor in trained.state_dict().items()}
    with caplog.at_level(logging.WARNING, LOGGER):
        model, before = load(classifier(), save(source, tmp_path / "w.pth"))
    expected = body(source)
    assert all(torch.equal(t, expected[key]) for key, t in body(model.state_dict()).items())
    for key in ("linear.weight", "linear.bias"):
        assert torch.equal(model.state_dict()[key], before[key])
    moved = "goes from backbone.bottom_up.* to backbone.*, and the feature pyramid"
    assert (moved in caplog.text) is (name != "AxialDeepLab")


def test_table_lengths_and_output_strides_may_differ(tmp_path: Path) -> None:
    source = random_state(classifier(MAX_SPAN=9))
    model, _ = load(axial_deeplab(MAX_SPAN=17), save(source, tmp_path / "w.pth"))
    for key, tensor in body(model.state_dict()).items():
        expected = source[key]
        if key.endswith("_table"):
            expected = resize_table(expected, 33)
        assert torch.equal(tensor, expected), key


@pytest.mark.parametrize(
    ("theirs", "ours", "width", "kept"),
    [
        ("conv7", "deeplab", 1.0, READERS),
        ("deeplab", "conv7", 1.0, READERS),
        # As many as the block has, which then has no shortcut.
        ("conv7", "deeplab", 0.5, ("res2.0.conv1.weight", "res2.0.shortcut.")),
        ("deeplab", "inception", 0.5, ()),
        # The same number of channels comes out of both.
        ("conv7", "deeplab", 0.125, ()),
        ("conv7", "axial", 1.0, READERS),
    ],
)
def test_another_stem_keeps_its_initial_values(
    theirs: str,
    ours: str,
    width: float,
    kept: tuple[str, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = random_state(classifier(STEM=theirs, STEM_WIDTH_MULTIPLIER=width))
    cfg = axial_deeplab(STEM=ours, STEM_WIDTH_MULTIPLIER=width)
    with caplog.at_level(logging.WARNING, LOGGER):
        model, before = load(cfg, save(source, tmp_path / "w.pth"))
    same_tensors = {"deeplab", "inception"} == {theirs, ours}
    noted = "the stems of checkpoint and model differ" in caplog.text
    assert noted is not same_tensors
    for key, tensor in body(model.state_dict()).items():
        name = key.removeprefix("backbone.")
        stays = not same_tensors and (name.startswith(("stem.", *kept)))
        assert torch.equal(tensor, before[key] if stays else source[key]), key


def test_another_stem_is_an_error_where_more_than_the_backbone_is_loaded(tmp_path: Path) -> None:
    """Evaluation with a random stem would be worth nothing."""
    path = save(random_state(classifier(STEM="conv7")), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="keys of backbone not in the"):
        load(classifier(STEM="axial"), path)


def test_another_width_is_an_error(tmp_path: Path) -> None:
    path = save(random_state(classifier(WIDTH_MULTIPLIER=0.25)), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="does not fit this model"):
        load(axial_deeplab(), path)
    with pytest.raises(WeightsError, match="does not fit this model"):
        load(mask_rcnn(), path)


def test_an_optimizers_state_moves_nothing(tmp_path: Path) -> None:
    state = random_state(classifier())
    torch.save({"model": state, "trainer": {}}, tmp_path / "w.pth")
    model = build_model(mask_rcnn())
    keeper = StrictCheckpointer(model, trainer=nn.Identity())
    with pytest.raises(WeightsError, match="keys of backbone not in the"):
        keeper.load(str(tmp_path / "w.pth"))


def test_a_file_without_a_stem_is_an_error(tmp_path: Path) -> None:
    state = {k: v for k, v in random_state(classifier()).items() if ".stem." not in k}
    with pytest.raises(
        WeightsError, match=r"keys of backbone not in the checkpoint, such as .*stem"
    ):
        load(axial_deeplab(), save(state, tmp_path / "w.pth"))
