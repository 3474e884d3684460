"""MODEL.WEIGHTS of other formats and other tables, and files that are none."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from axial_d2.engine import StrictCheckpointer
from axial_d2.engine.checkpoint import WeightsError
from axial_d2.weights.transfer import resize_table
from axial_d2.weights.writing import write_tensors
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

MakeCfg = Callable[..., CfgNode]

NODE = "MODEL.AXIAL_RESNET."
TABLE = "backbone.res4.1.width_axis.value_table"


@pytest.fixture
def build(tiny_cfg: MakeCfg) -> Callable[..., nn.Module]:
    return lambda *opts: build_model(tiny_cfg(*opts))


def save(model: nn.Module, path: Path, **state: object) -> str:
    torch.save({"model": model.state_dict(), **state}, path)
    return str(path)


@pytest.mark.parametrize(("max_span", "change"), [(9, "grown"), (2, "shrunk")])
def test_tables_of_another_length_follow_a_rule_that_is_logged(
    build: Callable, tmp_path: Path, max_span: int, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, model = build(), build(NODE + "MAX_SPAN", max_span)
    path = save(source, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING, "axial_d2.engine.checkpoint"):
        StrictCheckpointer(model).load(path)
    for name, tensor in model.state_dict().items():
        expected = source.state_dict()[name]
        if name.endswith("_table"):
            expected = resize_table(expected, 2 * max_span - 1)
        assert torch.equal(tensor, expected)
    (record,) = [r for r in caplog.records if r.name == "axial_d2.engine.checkpoint"]
    tables = sum(name.endswith("_table") for name in model.state_dict())
    rows = source.state_dict()[TABLE].shape[0]
    expected = f"{path}: {tables} × position table {change} from {rows} to {2 * max_span - 1} rows"
    assert record.getMessage().startswith(expected)


def test_an_optimizers_state_keeps_tables_as_they_are(build: Callable, tmp_path: Path) -> None:
    """It has moments of the same shapes, which no rule changes."""
    source, model = build(), build(NODE + "MAX_SPAN", 9)
    state = torch.optim.Adam(source.parameters()).state_dict()
    path = save(source, tmp_path / "w.pth", optimizer=state)
    checkpointer = StrictCheckpointer(model, optimizer=torch.optim.Adam(model.parameters()))
    with pytest.raises(WeightsError, match=r"_table: \(11, \d\) in the checkpoint, \(17, \d\)"):
        checkpointer.load(path)
    checkpointer.load(path, checkpointables=[])
    assert model.state_dict()[TABLE].shape[0] == 17


def test_a_predictor_with_other_inputs_is_no_matter_of_classes(
    build: Callable, tmp_path: Path
) -> None:
    name = "sem_seg_head.predictor.weight"
    state = build().state_dict()
    state[name] = state[name][:, :3]
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"{name}: .* in the checkpoint"):
        StrictCheckpointer(build()).load(str(tmp_path / "w.pth"))


def test_safetensors_files_load(build: Callable, tmp_path: Path) -> None:
    source, model = build(), build()
    path = tmp_path / "w.safetensors"
    write_tensors(source.state_dict(), path)
    StrictCheckpointer(model).load(str(path))
    assert all(torch.equal(t, source.state_dict()[n]) for n, t in model.state_dict().items())


def test_a_conversion_is_logged_and_misfits_are_refused(
    build: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(NODE + "STAGE_TYPES", '["axial", "axial", "axial", "conv"]')
    name = "layer4.{}.conv{}.weight"
    conv = {"conv1.weight": torch.ones(1), "bn1.weight": torch.ones(1), "fc.bias": torch.ones(1)}
    conv["layer1.0.conv1.weight"] = conv["layer1.0.conv2.weight"] = torch.ones(1)
    path = tmp_path / "w.pth"
    torch.save(conv, path)
    words = rf"{path} \(MODEL.WEIGHTS, or.*res5.0.conv1.weight needs {name.format(0, 1)}, not in"
    with pytest.raises(WeightsError, match="(?s)" + words):
        StrictCheckpointer(model).load(str(path))

    theirs = {
        key.replace("backbone.res5.", "layer4.")
        .replace("conv1.norm", "bn1")
        .replace("conv2.norm", "bn2")
        .replace("conv3.norm", "bn3")
        .replace("shortcut.norm", "downsample.1")
        .replace("shortcut", "downsample.0"): torch.full_like(tensor, 3)
        for key, tensor in model.state_dict().items()
        if key.startswith("backbone.res5.")
    }
    torch.save({"state_dict": {**conv, **theirs}}, path)
    with caplog.at_level(logging.INFO, "axial_d2.engine.checkpoint"):
        StrictCheckpointer(model).load(str(path))
    assert f"converted {path}" in caplog.text
    assert "the model's stem is of another kind" in caplog.text
    assert (model.backbone.res5[0].conv2.weight == 3).all()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_a_conversion_could_not_fill_may_be_missing(
    build: Callable, tmp_path: Path, suffix: str
) -> None:
    source, model = build(), build()
    state = source.state_dict()
    stem = {name: tensor for name, tensor in state.items() if name.startswith("backbone.stem.")}
    unfilled = [name for name in state if name not in stem]
    path = tmp_path / f"w{suffix}"
    write_tensors(stem, path, unfilled=unfilled)
    StrictCheckpointer(model).load(str(path))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in stem.items())
    write_tensors(stem, path, unfilled=unfilled[1:], overwrite=True)
    with pytest.raises(WeightsError, match=rf"1 keys of .* such as {unfilled[0]}"):
        StrictCheckpointer(model).load(str(path))


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_pickle_of_which_no_name_matches_is_refused(build: Callable, tmp_path: Path) -> None:
    """Detectron2 says so in a warning and goes on with random weights."""
    path, model = tmp_path / "w.pkl", build()
    arrays = {f"encoder.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=r"w.pkl .*: no name in it matches one of the model's"):
        StrictCheckpointer(model).load(str(path))


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.pyth", "w.safetensors"])
@pytest.mark.parametrize("pickled", [True, False], ids=["pickle", "torch"])
def test_no_code_runs(build: Callable, tmp_path: Path, name: str, pickled: bool) -> None:
    path, trace = tmp_path / name, tmp_path / "was_here"
    content = {"model": {"a": Evil(trace)}, "model_state": {}, "__author__": "evil"}
    if pickled:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=r"MODEL.WEIGHTS.*cannot be read"):
        StrictCheckpointer(build()).load(str(path))
    assert not trace.exists()


def test_a_tensorflow_checkpoint_is_to_be_converted(build: Callable, tmp_path: Path) -> None:
    (tmp_path / "ckpt-60000.index").touch()
    for path in (tmp_path, tmp_path / "ckpt-60000", tmp_path / "ckpt-60000.index"):
        with pytest.raises(WeightsError, match=r"(?s)MODEL.WEIGHTS") as error:
            StrictCheckpointer(build()).load(str(path))
        if not path.is_file():
            assert "convert it with tools/convert_weights.py" in str(error.value)


def test_git_mains_question_mark(build: Callable, tmp_path: Path) -> None:
    """There, the rest of the address is kept under this name while a file is loaded."""
    path = tmp_path / "w.pth"
    torch.save({"stem.conv1.weight": torch.zeros(1)}, path)
    checkpointer = StrictCheckpointer(build())
    for query, matching in (("", False), ("?matching_heuristics=True", True)):
        checkpointer._parsed_url_during_load = urlparse(f"{path}{query}")
        loaded = checkpointer._load_file(str(path))
        assert loaded.get("matching_heuristics", False) is matching
