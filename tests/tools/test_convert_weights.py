"""tools/convert_weights.py, and MODEL.WEIGHTS with what it writes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from axial_d2.engine import StrictCheckpointer
from axial_d2.engine.setup import load_config
from axial_d2.engine.skeleton import build_without_data
from axial_d2.weights.reading import read_tensors
from tool_modules import load_tool

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "weights"))
from authors_checkpoint import authors_tensors  # noqa: E402

CONFIG = str(ROOT / "configs" / "demo" / "axial_deeplab_demo.yaml")
NODE = "MODEL.AXIAL_RESNET."
# The small checkpoint's backbone in the demo's model.
AUTHORS = [
    NODE + "DEPTH", "26",
    NODE + "WIDTH_MULTIPLIER", "0.125",
    NODE + "STEM", "conv7",
    NODE + "STEM_WIDTH_MULTIPLIER", "0.25",
    NODE + "STRIDING", "avg_pool",
    NODE + "NUM_HEADS", "8",
    NODE + "MAX_SPAN", "20",
]  # fmt: skip


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("convert_weights")


@pytest.fixture
def source(tmp_path: Path) -> str:
    """An authors' checkpoint as their trainer saves it."""
    tensors = {f"module.{name}": tensor for name, tensor in authors_tensors().items()}
    path = tmp_path / "authors.pth"
    torch.save({"epoch": 130, "state_dict": tensors, "optimizer": {"state": {}}}, path)
    return str(path)


def demo_model() -> Any:
    opts = [*AUTHORS, "DATASETS.PANOPTIC", "[]", "MODEL.DEVICE", "cpu"]
    return build_without_data(load_config(CONFIG, opts), "cpu")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_converted_file_loads(
    tool: ModuleType,
    source: str,
    suffix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / f"converted{suffix}"
    assert tool.main([source, str(output), "--config-file", CONFIG, *AUTHORS]) == 0
    printed = capsys.readouterr().out
    assert f"{source}: authors' PyTorch" in printed
    assert "follows from the length of the tables" in printed
    assert "position table grown from 31 to 39 rows" in printed
    assert "which the source lacks: sem_seg_head.decoder" in printed
    assert f"wrote {output}" in printed

    converted, direct = demo_model(), demo_model()
    StrictCheckpointer(converted).load(str(output))
    StrictCheckpointer(direct).load(source)
    tensors = direct.backbone.state_dict()
    assert all(torch.equal(t, tensors[n]) for n, t in converted.backbone.state_dict().items())
    expected = authors_tensors()["layer4.0.conv_up.weight"]
    assert torch.equal(tensors["res5.0.conv3.weight"], expected)


def test_without_a_config_it_is_the_backbone_of_the_weights(
    tool: ModuleType, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "converted.pth"
    assert tool.main([source, str(output)]) == 0
    printed = capsys.readouterr().out
    assert "no --config-file; the backbone is MODEL.BACKBONE.NAME build_axial" in printed
    assert "MODEL.AXIAL_RESNET.MAX_SPAN 16" in printed
    assert "unfilled" not in printed
    tensors = read_tensors(output)
    assert all(name.startswith("backbone.") for name in tensors)
    assert tensors["backbone.res5.0.width_axis.query_table"].shape[0] == 31


def test_there_and_back(tool: ModuleType, source: str, tmp_path: Path) -> None:
    ours, back = str(tmp_path / "ours.safetensors"), tmp_path / "back.pth"
    assert tool.main([source, ours]) == 0
    assert tool.main([ours, str(back), "--to", "authors", "--image-size", "64"]) == 0
    assert torch.load(back).keys() == {"state_dict"}
    tensors, original = read_tensors(back), authors_tensors()
    assert tensors.keys() == {name for name in original if not name.startswith("fc.")}
    assert all(torch.equal(tensor, original[name]) for name, tensor in tensors.items())


def test_an_existing_file_is_kept_unless_forced(
    tool: ModuleType, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "precious.pth"
    output.write_text("thesis")
    for each in (source, "nowhere.pth"):  # told before anything is read
        assert tool.main([each, str(output)]) == 1
        assert "exists; give another name, or --force to replace it" in capsys.readouterr().err
    assert output.read_text() == "thesis"
    assert tool.main([source, str(output), "--force"]) == 0
    assert read_tensors(output)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{tmp}/nowhere.pth", "{tmp}/o.pth"], "nowhere.pth does not exist"),
        (["{source}", "{tmp}/o.pkl"], "o.pkl must end in .pth or .safetensors"),
        (["{source}", "{tmp}/o.pth", "--config-file", "no.yaml"], "no.yaml does not exist"),
        (["{source}", "{tmp}/o.pth", "--config-file", CONFIG], "the authors' models lack"),
        (["{source}", "{tmp}/o.pth", "MODEL.NO_KEY", "1"], "MODEL.NO_KEY"),
        (["{source}", "{tmp}/o.pth", "--to", "authors"], "the model has no backbone with stages"),
    ],
    ids=["source", "suffix", "config", "misfit", "key", "export"],
)
def test_errors_are_sentences(
    tool: ModuleType,
    source: str,
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [each.format(tmp=tmp_path, source=source) for each in arguments]
    assert tool.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("convert_weights: ")
    assert words in error
    assert not (tmp_path / "o.pth").exists()


@pytest.mark.parametrize(
    "arguments", [["--config-file", CONFIG], ["MODEL.DEVICE", "cpu"], ["--image-size", "0"]]
)
def test_options_that_do_not_go_together(
    tool: ModuleType, source: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tool.main([source, "out.pth", "--to", "authors", *arguments])
    assert capsys.readouterr().err


def test_our_own_backbone_needs_a_config(
    tool: ModuleType, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, again = str(tmp_path / "ours.pth"), str(tmp_path / "again.pth")
    assert tool.main([source, ours]) == 0
    assert tool.main([ours, again]) == 1
    assert "need a --config-file, which says their model" in capsys.readouterr().err
    assert tool.main([ours, again, "--config-file", CONFIG, *AUTHORS]) == 0
