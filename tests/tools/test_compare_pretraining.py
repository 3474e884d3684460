"""tools/compare_pretraining.py, a few iterations long."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tool_modules import load_tool

SIZES = [
    *("--backbone", "conv", "--num-train", "8", "--num-val", "2", "--max-iter", "4"),
    *("--classifier-iter", "2", "--num-pictures", "20"),
]


pytestmark = pytest.mark.usefixtures("runs_of_a_tool")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("compare_pretraining")


@pytest.fixture(scope="module")
def trained(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pretraining")
    assert tool.main(["--output", str(output), "--seeds", "1", *SIZES]) == 0
    return output


def test_the_document_has_both_starts_at_a_quarter_and_at_the_end(trained: Path) -> None:
    document = (trained / "pretraining.md").read_text(encoding="utf-8")
    for figure in ("PQ", "mIoU", "mask AP"):
        for iterations in (1, 4):
            rows = re.findall(rf"\| {figure} after {iterations} +\| (\w+)", document)
            assert rows == ["initial", "the"]
    assert "No seed has" not in document
    assert document.count("the pretrained start is **better on") == 6


@pytest.mark.parametrize("start", ["scratch", "pretrained"])
def test_only_the_pretrained_segmentor_starts_from_the_classifier(
    tool: ModuleType, trained: Path, start: str
) -> None:
    args = tool.parse_arguments(["--output", str(trained), "--seeds", "1", *SIZES])
    trainer = tool.Trainer(tool.config_of(start, 1, args))
    trainer.resume_or_load(resume=False)
    source = torch.load(trained / "classifier_1" / "model_final.pth")["model"]
    backbone = {k: v for k, v in trainer.model.state_dict().items() if k.startswith("backbone.")}
    equal = [torch.equal(tensor, source[name]) for name, tensor in backbone.items()]
    assert source.keys() - backbone.keys() == {"linear.weight", "linear.bias"}
    assert all(equal) is (start == "pretrained")


def test_what_was_trained_is_not_trained_again(
    tool: ModuleType, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tool, "train", lambda kind, args: pytest.fail(f"{kind} was trained"))
    arguments = ["--output", str(trained), "--seeds", "1", *SIZES]
    assert tool.main(arguments) == 0
    assert tool.main([*arguments, "--report", str(tmp_path / "docs")]) == 0
    assert (tmp_path / "docs" / "pretraining.md").is_file()
    with pytest.raises(pytest.fail.Exception, match="classifier_1 was trained"):
        tool.main([*arguments, "--max-iter", "8"])


def test_verdicts_in_words(tool: ModuleType) -> None:
    def training(kind: str, quality: float) -> object:
        return tool.Training(kind, {}, {"4": {"PQ": quality}}, 1, 1.0)

    trainings = {
        t.kind: t
        for t in (
            training("scratch_1", 10.0), training("pretrained_1", 13.0),
            training("scratch_2", 12.0), training("pretrained_2", 11.0),
            training("scratch_3", 50.0),
        )
    }  # fmt: skip
    said = tool.verdict(trainings, 4, "PQ")
    assert "better on 1 of 2 seeds**, by +1.0 ± 2.8 on average" in said
    trainings["pretrained_2"] = replace(trainings["pretrained_2"], results={"4": {"PQ": 13.0}})
    assert "better on every seed**, by +2.0 ± 1.4" in tool.verdict(trainings, 4, "PQ")
    only = {"scratch_1": trainings["scratch_1"]}
    assert "no seed has both trainings" in tool.verdict(only, 4, "PQ")


def test_nothing_trained_and_too_few_iterations(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--output", str(tmp_path), "--report", str(tmp_path)]) == 1
    assert "nothing trained" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(["--max-iter", "3"])
    assert "--max-iter is 3; it must be 4 or more" in capsys.readouterr().err
