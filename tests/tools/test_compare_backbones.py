"""tools/compare_backbones.py, two iterations long."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from tool_modules import load_tool

SIZES = ["--num-train", "4", "--num-val", "2", "--max-iter", "2"]


pytestmark = pytest.mark.usefixtures("runs_of_a_tool")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("compare_backbones")


@pytest.fixture(scope="module")
def trained(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("comparison")
    assert tool.main(["--output", str(output), "--kinds", "conv", *SIZES]) == 0
    return output


def test_every_kind_of_stage_and_stem_takes_part(tool: ModuleType) -> None:
    kinds = {"axial", "conv", "local", "local_ps", "global", "full_axial", "full_local"}
    assert kinds <= set(tool.KINDS)


def test_table_and_figure(trained: Path) -> None:
    document = (trained / "demo_comparison.md").read_text(encoding="utf-8")
    assert "| [conv](../configs/demo/backbones/conv.yaml)" in document
    assert "2 iterations of 8 crops" in document
    assert Image.open(trained / "demo_comparison.png").width > 400


def test_what_is_trained_is_not_trained_again(
    tool: ModuleType, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_again = []

    def compare(kind: str, args: object) -> None:
        trained_again.append(kind)
        raise InterruptedError

    monkeypatch.setattr(tool, "compare", compare)
    assert tool.main(["--output", str(trained), "--kinds", "conv", *SIZES]) == 0
    assert not trained_again
    longer = [*SIZES[:-1], "3"]
    with pytest.raises(InterruptedError):
        tool.main(["--output", str(trained), "--kinds", "conv", *longer])
    assert trained_again == ["conv"]


def test_report_alone(tool: ModuleType, trained: Path, tmp_path: Path) -> None:
    arguments = ["--output", str(trained), "--report", str(tmp_path), *SIZES]
    assert tool.main(arguments) == 0
    assert (tmp_path / "demo_comparison.md").is_file()


def test_report_of_nothing(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--output", str(tmp_path), "--report", str(tmp_path), *SIZES]) == 1
    assert "nothing trained" in capsys.readouterr().err
