"""tools/analyze_model.py on a config of its own folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from tool_modules import load_tool

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "configs" / "demo" / "axial_deeplab_demo.yaml")


@pytest.fixture(scope="module")
def analyze_model() -> ModuleType:
    return load_tool("analyze_model")


def test_the_demos_config(
    analyze_model: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cost.json"
    arguments = ["--config-file", DEMO, "--input-size", "97x129"]
    assert analyze_model.main([*arguments, "--by-module", "--depth", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    cost = json.loads(file.read_text())

    assert cost["config_file"] == DEMO
    assert cost["input_size"] == [97, 129]
    assert set(cost["versions"]) == {"axial_d2", "detectron2", "fvcore", "torch"}
    totals = cost["totals"]
    root = cost["by_module"][""]
    assert {name: totals[name] for name in root} == root
    assert totals["multiply_adds"] == sum(cost["by_operator"].values())
    assert totals["activation_mebibytes"] == totals["activations"] * 4 / 2**20
    assert cost["unsupported_operators"] == {}

    assert f"{totals['parameters'] / 1e6:.2f} M" in printed
    assert f"{totals['multiply_adds'] / 1e9:.2f} B" in printed
    rows = [line.split()[0] for line in printed.splitlines()[2:6]]
    assert rows == ["(model)", "backbone", "sem_seg_head", "ins_embed_head"]
    assert "Warning" not in printed


def test_options_change_the_config(analyze_model: ModuleType, tmp_path: Path) -> None:
    def multiply_adds(*opts: str) -> int:
        file = tmp_path / "cost.json"
        arguments = ["--config-file", DEMO, "--input-size", "65x65", "--json", str(file)]
        assert analyze_model.main([*arguments, *opts]) == 0
        return json.loads(file.read_text())["totals"]["multiply_adds"]

    windows = ["MODEL.AXIAL_RESNET.SPAN", "5"]
    everything, full = multiply_adds(), multiply_adds(*windows)
    truncated = multiply_adds("--count-border", "truncated", *windows)
    assert truncated < full < everything


@pytest.mark.parametrize("size", ["1025", "ax b", "0x5", "5x-1", "1x2x3", "10.5x3", ""])
def test_a_size_that_is_none(
    analyze_model: ModuleType, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        analyze_model.main(["--config-file", DEMO, "--input-size", size])
    error = capsys.readouterr().err
    assert f"{size!r} is no size; give height and width in pixels, such as 1025x2049" in error


def test_a_folder_that_is_missing_is_told_before_the_work(
    analyze_model: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "nowhere" / "cost.json")
    with pytest.raises(SystemExit):
        analyze_model.main(["--config-file", DEMO, "--input-size", "65x65", "--json", file])
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config_file", "opts", "message"),
    [
        ("nowhere.yaml", [], "--config-file nowhere.yaml does not exist"),
        (DEMO, ["MODEL.AXIAL_RESNET.SPAN", "4"], "MODEL.AXIAL_RESNET.SPAN 4 is even"),
    ],
)
def test_a_config_that_cannot_be_built(
    analyze_model: ModuleType,
    config_file: str,
    opts: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--config-file", config_file, "--input-size", "65x65"]
    assert analyze_model.main([*arguments, *opts]) == 1
    assert message in capsys.readouterr().err
