"""The set-up of TensorFlow: when it has work to do, and what it says on failure."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy
import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script for an environment in ``tmp_path``."""
    monkeypatch.syspath_prepend(str(TOOLS))
    names = ("setup_tensorflow", "setup_env", "find_python")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("setup_tensorflow")
    folder = tmp_path / ".venv-tensorflow"
    monkeypatch.setattr(module, "FOLDER", folder)
    monkeypatch.setattr(module, "PYTHON", folder / "bin" / "python")
    monkeypatch.setattr(module, "STAMP", folder / "setup.txt")
    yield module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def calls(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands, which do nothing but what later ones rely on."""
    made: list[list[str]] = []

    def call(command: list[str], **environment: str) -> str:
        made.append(command)
        if "--clear" in command:
            shutil.rmtree(command[-1], ignore_errors=True)
            own = sysconfig.get_path("purelib", vars={"base": command[-1], "platbase": command[-1]})
            Path(own).mkdir(parents=True)
        return "TensorFlow 9"

    monkeypatch.setattr(script, "call", call)
    return made


def test_it_installs_once_and_asks_for_the_numpy_that_is_there(
    script: ModuleType, calls: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main() == 0
    _, install, verify = calls
    assert install[0] == verify[0] == str(script.PYTHON)
    assert install[-2:] == [str(script.REQUIREMENTS), f"numpy=={numpy.__version__}"]
    assert "tensorflow-cpu==" in script.REQUIREMENTS.read_text()
    (link,) = script.FOLDER.rglob("*.pth")
    assert link.read_text() == f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    assert "is ready" in capsys.readouterr().out
    assert script.main() == 0
    assert len(calls) == 3
    assert "is up to date" in capsys.readouterr().out


@pytest.mark.parametrize("step", ["venv", "pip", "-c"])
def test_what_was_interrupted_starts_afresh(
    script: ModuleType, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    works = script.call

    def fail(command: list[str], **environment: str) -> str:
        if step in command:
            raise KeyboardInterrupt
        return works(command, **environment)

    monkeypatch.setattr(script, "call", fail)
    assert script.main() == 130
    assert not script.STAMP.exists()
    monkeypatch.setattr(script, "call", works)
    calls.clear()
    assert script.main() == 0
    assert len(calls) == 3


def test_a_failure_is_explained(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "Looking\nERROR: No matching distribution found for tensorflow-cpu"
    done = subprocess.CompletedProcess([], 1, stdout=said)
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: done)
    assert script.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("\nmake env-tensorflow: TensorFlow cannot be set up")
    assert "  | ERROR: No matching distribution found for tensorflow-cpu" in error
    assert "Reason: the package index has no such package for this Python" in error
    assert "The environment of axial_d2 is as it was" in error
    assert not script.STAMP.exists()


def test_another_python_is_told_at_once(
    script: ModuleType,
    calls: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "find_spec", lambda name: None if name == "torch" else object())
    assert script.main() == 1
    assert "has no torch, so it is not the environment of axial_d2" in capsys.readouterr().err
    assert not calls
