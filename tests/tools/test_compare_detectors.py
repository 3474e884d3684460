"""tools/compare_detectors.py, two iterations long."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from tool_modules import load_tool

SIZES = ["--num-train", "4", "--num-val", "2", "--max-iter", "2"]


pytestmark = pytest.mark.usefixtures("runs_of_a_tool")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("compare_detectors")


@pytest.fixture(scope="module")
def trained(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("detectors")
    assert tool.main(["--output", str(output), "--kinds", "retinanet_conv", *SIZES]) == 0
    return output


def test_every_kind_has_its_config(tool: ModuleType) -> None:
    assert {kind for kind in tool.KINDS if not (tool.CONFIGS / f"{kind}.yaml").is_file()} == set()
    assert len(tool.KINDS) == 5


def test_table_and_times(tool: ModuleType, trained: Path) -> None:
    document = (trained / "demo_detection.md").read_text(encoding="utf-8")
    assert "| [retinanet_conv](../configs/demo/detection/retinanet_conv.yaml)" in document
    assert "Not trained: retinanet_local, retinanet_full_local, attention_" in document
    assert "trains\nevery row from scratch on 4 images" in document
    found = json.loads((trained / "retinanet_conv" / "comparison.json").read_text())
    assert found["settings"]["max_iter"] == 2
    assert set(found["results"]) == {"AP", "AP50", "AP75"}
    assert found["training_cpu_seconds"] > 0
    assert found["parameters"] > 100_000


def test_what_is_trained_is_not_trained_again(
    tool: ModuleType, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_again = []

    def train(kind: str, args: object) -> None:
        trained_again.append(kind)
        raise InterruptedError

    monkeypatch.setattr(tool, "train", train)
    arguments = ["--output", str(trained), "--kinds", "retinanet_conv"]
    assert tool.main([*arguments, *SIZES]) == 0
    assert not trained_again
    with pytest.raises(InterruptedError):
        tool.main([*arguments, *SIZES[:-1], "3"])
    assert trained_again == ["retinanet_conv"]


def test_report_alone(tool: ModuleType, trained: Path, tmp_path: Path) -> None:
    arguments = ["--output", str(trained), "--report", str(tmp_path), *SIZES]
    assert tool.main(arguments) == 0
    assert (tmp_path / "demo_detection.md").is_file()


def test_report_of_nothing(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--output", str(tmp_path), "--report", str(tmp_path), *SIZES]) == 1
    assert "nothing trained" in capsys.readouterr().err


@pytest.mark.parametrize("results", [{}, {"bbox": {"AP": float("nan")}}, {"bbox": {"AP": 3.0}}])
def test_nothing_detected_is_zero(tool: ModuleType, results: dict) -> None:
    assert tool.score(results, "AP") == (3.0 if results.get("bbox", {}).get("AP") == 3.0 else 0.0)
