"""Weights that fit are loaded; of others the error says what does not fit."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from axial_d2.engine import StrictCheckpointer
from axial_d2.engine.checkpoint import WeightsError
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

MakeCfg = Callable[..., CfgNode]

BACKBONE = "MODEL.AXIAL_RESNET."
HEADS = ("MODEL.SEM_SEG_HEAD.", "MODEL.INS_EMBED_HEAD.")


@pytest.fixture
def build(tiny_cfg: MakeCfg) -> Callable[..., nn.Module]:
    return lambda *opts: build_model(tiny_cfg(*opts))


@pytest.fixture
def saved(build: Callable, tmp_path: Path) -> tuple[nn.Module, str]:
    """The tiny model and the file that holds it."""
    model = build()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            nn.init.normal_(tensor)
    path = tmp_path / "weights.pth"
    torch.save({"model": model.state_dict()}, path)
    return model, str(path)


def load(model: nn.Module, path: str) -> dict:
    return StrictCheckpointer(model).load(path)


def same(model: nn.Module, other: nn.Module, prefix: str = "") -> bool:
    expected = other.state_dict()
    return all(
        torch.equal(v, expected[k]) for k, v in model.state_dict().items() if k.startswith(prefix)
    )


def save_changed(saved: tuple, tmp_path: Path, change: Callable[[OrderedDict], object]) -> str:
    """The file after a change to its state dict, made in place or returned."""
    state = torch.load(saved[1])["model"]
    state = change(state) or state
    path = tmp_path / "changed.pth"
    torch.save({"model": state}, path)
    return str(path)


def test_what_fits_is_loaded(build: Callable, saved: tuple) -> None:
    model = build()
    assert not same(model, saved[0])
    load(model, saved[1])
    assert same(model, saved[0])


def test_no_weights_leave_the_model_as_it_is(build: Callable) -> None:
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert load(model, "") == {}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_bare_state_dict_and_a_module_prefix_fit(
    build: Callable, saved: tuple, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.pth"
    torch.save(saved[0].state_dict(), bare)
    model = build()
    load(model, str(bare))
    assert same(model, saved[0])
    prefixed = save_changed(
        saved, tmp_path, lambda state: OrderedDict((f"module.{k}", v) for k, v in state.items())
    )
    model = build()
    load(model, prefixed)
    assert same(model, saved[0])


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (
            (BACKBONE + "WIDTH_MULTIPLIER", 0.25),
            r"backbone.res2.0.conv1.weight: \(16, \d+, 1, 1\) in the checkpoint, \(32, \d+, 1, 1\)",
        ),
        ((BACKBONE + "DEPTH", 50), r"keys of backbone not in the checkpoint, such as backbone.res"),
        (
            (BACKBONE + "STEM", "conv7"),
            r"backbone.stem.conv1.weight: .*, \(16, 3, 7, 7\) in the",
        ),
        (
            (BACKBONE + "STEM", "axial", BACKBONE + "STEM_WIDTH_MULTIPLIER", 0.25),
            r"keys of backbone not in the checkpoint, such as backbone.stem.block1",
        ),
        (
            (HEADS[0] + "DECODER_INPUT", "projection"),
            r"keys of sem_seg_head not in the checkpoint, such as .*res5.project_conv",
        ),
        ((HEADS[1] + "CONVS_DIM", 24), r"ins_embed_head.*: \(16, .* in the checkpoint, \(24, "),
    ],
    ids=["width", "depth", "stem", "axial stem", "decoder input", "head width"],
)
def test_weights_of_another_model_are_refused(
    build: Callable, saved: tuple, opts: tuple, words: str
) -> None:
    with pytest.raises(WeightsError, match=words) as error:
        load(build(*opts), saved[1])
    assert str(error.value).startswith(f"{saved[1]} (MODEL.WEIGHTS, or")
    assert "Use the config that the weights were trained with" in str(error.value)


def test_a_long_list_is_cut(build: Callable, saved: tuple) -> None:
    with pytest.raises(WeightsError, match=r"… and \d+ more") as error:
        load(build(BACKBONE + "WIDTH_MULTIPLIER", 0.25), saved[1])
    assert len(str(error.value).splitlines()) < 15


def test_a_single_missing_or_superfluous_key_is_enough(
    build: Callable, saved: tuple, tmp_path: Path
) -> None:
    key = "backbone.res4.1.width_axis.value_table"
    path = save_changed(saved, tmp_path, lambda state: state.__delitem__(key))
    with pytest.raises(WeightsError, match=f"1 keys of backbone not in the checkpoint.* {key}"):
        load(build(), path)
    path = save_changed(
        saved, tmp_path, lambda state: state.update({"backbone.extra": torch.ones(1)})
    )
    with pytest.raises(WeightsError, match=r"1 keys of backbone not in the model.* backbone.extra"):
        load(build(), path)


def test_another_number_of_classes_leaves_the_predictor_alone_with_a_warning(
    build: Callable, saved: tuple, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(HEADS[0] + "NUM_CLASSES", 7)
    before = model.sem_seg_head.predictor.weight.clone()
    with caplog.at_level(logging.WARNING):
        load(model, saved[1])
    assert torch.equal(model.sem_seg_head.predictor.weight, before)
    for part in ("backbone", "sem_seg_head.decoder", "ins_embed_head"):
        assert same(model, saved[0], part)
    assert "sem_seg_head.predictor.weight" in caplog.text


def test_a_backbone_alone_starts_a_whole_model(
    build: Callable, saved: tuple, tmp_path: Path
) -> None:
    path = save_changed(
        saved,
        tmp_path,
        lambda state: OrderedDict((k, v) for k, v in state.items() if k.startswith("backbone.")),
    )
    model = build()
    load(model, path)
    assert same(model, saved[0], "backbone.")
    assert not same(model, saved[0])


def test_a_part_that_the_model_lacks_is_no_obstacle(
    build: Callable, saved: tuple, tmp_path: Path
) -> None:
    path = save_changed(
        saved, tmp_path, lambda state: state.update({"classifier.weight": torch.ones(3, 3)})
    )
    model = build()
    load(model, path)
    assert same(model, saved[0])


def test_a_backbone_without_its_prefix_is_found_its_place(
    build: Callable, saved: tuple, tmp_path: Path
) -> None:
    path = tmp_path / "bare_backbone.pth"
    torch.save(saved[0].backbone.state_dict(), path)
    model = build()
    load(model, str(path))
    assert same(model, saved[0], "backbone.")
    assert not same(model, saved[0])


def test_another_networks_checkpoint_is_refused(build: Callable, tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.ones(64, 3, 7, 7), "fc.bias": torch.ones(1000)}, path)
    with pytest.raises(WeightsError, match=r"no part in common: .*\['conv1', 'fc'\]"):
        load(build(), str(path))


@pytest.mark.parametrize(
    "content", [{"state_dict": {"a": torch.ones(1)}, "epoch": 3}, [1, 2], {"model": 3}]
)
def test_a_file_of_another_layout_is_named(
    build: Callable, tmp_path: Path, content: object
) -> None:
    path = tmp_path / "foreign.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=str(path)):
        load(build(), str(path))


def test_batch_norms_of_another_kind_fit(build: Callable, saved: tuple, tmp_path: Path) -> None:
    """Frozen norms count no batches; fine-tuning with them is what checkpoints are for."""
    norm = (BACKBONE + "NORM", "FrozenBN")
    frozen = build(*norm)
    load(frozen, saved[1])
    assert same(frozen, saved[0], "backbone.")
    partly_frozen = build("MODEL.BACKBONE.FREEZE_AT", 2)
    load(partly_frozen, saved[1])
    assert same(partly_frozen, saved[0], "backbone.")
    path = tmp_path / "frozen.pth"
    torch.save({"model": frozen.state_dict()}, path)
    thawed = build()
    load(thawed, str(path))
    assert all(
        torch.equal(v, saved[0].state_dict()[k])
        for k, v in thawed.backbone.state_dict(prefix="backbone.").items()
        if not k.endswith("num_batches_tracked")
    )


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_a_truncated_file_is_named(
    build: Callable, saved: tuple, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "truncated.pth"
    path.write_bytes(Path(saved[1]).read_bytes()[:size])
    with pytest.raises(WeightsError, match=rf"{path} .*cannot be read"):
        load(build(), str(path))


def test_a_missing_file_is_named(build: Callable, tmp_path: Path) -> None:
    path = tmp_path / "nowhere.pth"
    with pytest.raises(FileNotFoundError, match=rf"MODEL.WEIGHTS.*{path}"):
        load(build(), str(path))


def test_a_last_checkpoint_that_was_deleted_is_named(build: Callable, tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    checkpointer = StrictCheckpointer(build(), str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"model_0000009\.pth"):
        checkpointer.resume_or_load("", resume=True)


def test_detectron2s_converted_files_keep_its_name_matching(
    build: Callable, tmp_path: Path
) -> None:
    """A ``.pkl`` of numpy arrays is matched by the ends of its keys and warns only."""
    import pickle

    model = build()
    array = torch.full_like(model.backbone.stem.conv1.weight, 0.5).numpy()
    path = tmp_path / "converted.pkl"
    data = {
        "model": {"stem.conv1.weight": array},
        "__author__": "test",
        "matching_heuristics": True,
    }
    path.write_bytes(pickle.dumps(data))
    load(model, str(path))
    assert (model.backbone.stem.conv1.weight == 0.5).all()
