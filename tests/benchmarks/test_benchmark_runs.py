"""Every case of the CPU runs at tiny sizes and is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from contests import Calls, contest, entry

from benchmarks import run
from benchmarks.measure import CheckFailed
from benchmarks.registry import Entry, Registry, Unavailable, load

# Of what takes a second or two; the others are slow.
FAST = ("postprocessing", "local_attention", "axial_layer_training")
CASES = [
    pytest.param(each.name, marks=() if each.name in FAST else pytest.mark.slow)
    for each in load().select("cpu", []).entries()
]


def report_of(tmp_path: Path, *options: str) -> dict[str, Any]:
    file = tmp_path / "report.json"
    assert run.main(["--quick", "--json", str(file), *options]) == 0
    return json.loads(file.read_text())


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, tmp_path: Path) -> None:
    report = report_of(tmp_path, "--no-memory", "--only", name)
    (result,) = report["results"]
    assert result["status"] == "measured", result
    assert result["error"] <= result["tolerance"]
    assert report["versions"]["torch"]
    assert report["quick"] is True


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    (result,) = report_of(tmp_path, "--only", "local_attention")["results"]
    assert all(side["peak_bytes"] > 0 for side in result["sides"])
    assert result["ratio"]["memory"] > 0


def test_a_partial_run_leaves_the_page_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "update_readme", lambda *args: pytest.fail("page written"))
    report_of(tmp_path, "--no-memory", "--only", "local_attention")


def only(monkeypatch: pytest.MonkeyPatch, one: Entry) -> None:
    registry = Registry()
    registry.add(registry.cases, one)
    monkeypatch.setattr(run, "load", lambda: registry)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [(CheckFailed("bad"), "wrong result", 1), (Unavailable("no g++"), "unavailable", 0)],
)
def test_faults_are_reported_and_a_wrong_result_fails(
    fault: Exception, status: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(setting: object) -> Any:
        raise fault

    only(monkeypatch, entry(build))
    file = tmp_path / "report.json"
    assert run.main(["--quick", "--json", str(file)]) == code
    (result,) = json.loads(file.read_text())["results"]
    assert (result["status"], result["reason"]) == (status, str(fault))


def test_the_list_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = Calls()
    only(monkeypatch, entry(lambda setting: contest(calls)))
    assert run.main(["--list"]) == 0
    assert "A title" in capsys.readouterr().out
    assert not calls.log


def test_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--only", "speed"]) == 1
    assert "--only speed is no benchmark" in capsys.readouterr().err


def test_cuda_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run.main(["--device", "cuda"]) == 1
    assert "no CUDA device" in capsys.readouterr().err
