"""tools/compare_classifiers.py, two iterations long."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from tool_modules import load_tool

SIZES = ["--num-train", "16", "--num-val", "10", "--max-iter", "2"]


pytestmark = pytest.mark.usefixtures("runs_of_a_tool")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("compare_classifiers")


@pytest.fixture(scope="module")
def trained(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("classifiers")
    arguments = ["--output", str(output), "--kinds", "conv", "--least", "0", *SIZES]
    assert tool.main(arguments) == 0
    return output


def test_every_kind_of_stage_and_stem_takes_part(tool: ModuleType) -> None:
    kinds = {"axial", "conv", "conv_axial", "local", "local_ps", "global"}
    assert set(tool.KINDS) == kinds | {"full_axial", "full_local"}


def test_the_table(trained: Path) -> None:
    document = (trained / "demo_classification.md").read_text(encoding="utf-8")
    (row,) = [line for line in document.splitlines() if line.startswith("| [conv]")]
    assert "(../configs/demo/classification/conv.yaml)" in row
    figures = re.findall(r"[\d.]+(?=M| )", row.partition(".yaml)")[2])
    top1, top5, iterations, parameters, multiply_adds = map(float, figures[:5])
    assert 0 <= top1 <= top5 <= 100
    assert iterations == 2
    assert 0.5 < parameters < 2
    assert multiply_adds > 1


def test_what_is_trained_is_not_trained_again(
    tool: ModuleType, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(kind: str, args: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(tool, "compare", compare)
    arguments = ["--output", str(trained), "--kinds", "conv", "--least", "0", *SIZES]
    assert tool.main(arguments) == 0
    with pytest.raises(InterruptedError):
        tool.main([*arguments, "--max-iter", "3"])


def test_a_kind_below_what_is_asked_fails(
    tool: ModuleType, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--output", str(trained), "--report", str(tmp_path), "--least", "101", *SIZES]
    assert tool.main(arguments) == 1
    assert "below 101.0 % top-1: conv" in capsys.readouterr().err
    assert (tmp_path / "demo_classification.md").is_file()


def test_report_of_nothing(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--output", str(tmp_path), "--report", str(tmp_path), *SIZES]) == 1
    assert "nothing trained" in capsys.readouterr().err
