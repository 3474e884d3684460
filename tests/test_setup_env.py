"""The set-up script: which Python it takes, when it has work to do, what it says on failure."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
KERNELS = [
    REPOSITORY / "axial_d2" / "ops" / "cpp_library.py",
    *(REPOSITORY / "axial_d2" / "csrc").glob("*.h"),
]
REQUIREMENTS = sorted((REPOSITORY / "requirements").glob("*.txt"))
SCRIPTS = [REPOSITORY / "tools" / name for name in ("setup_env.py", "find_python.py")]


@pytest.fixture
def setup_env(tmp_path, monkeypatch):
    """The script as a module of a checkout in ``tmp_path``, with no Python chosen."""
    for source in [*SCRIPTS, *REQUIREMENTS, *KERNELS, REPOSITORY / "setup.py"]:
        target = tmp_path / source.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.syspath_prepend(str(tmp_path / "tools"))
    for name in ("setup_env", "find_python"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("setup_env")
    yield module
    for name in ("setup_env", "find_python"):
        del sys.modules[name]


def fake_python(path, version=(3, 11, 4), **changes):
    """An executable that answers the script's questions like a Python of that version."""
    answer = {
        "version": version,
        "can_make_venv": True,
        "system": "Linux",
        "machine": "x86_64",
        "bits": 64,
        "libc": ["glibc", "2.31"],
        "executable": str(path),
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    path.chmod(0o755)
    return str(path)


def broken_shim(path):
    path.write_text("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
    path.chmod(0o755)
    return str(path)


# Which Python


def test_first_usable_candidate_is_taken(setup_env, tmp_path):
    candidates = [
        str(tmp_path / "absent"),
        broken_shim(tmp_path / "shim"),
        fake_python(tmp_path / "python3.9", (3, 9, 18)),
        fake_python(tmp_path / "python3.13", (3, 13, 0)),
        fake_python(tmp_path / "without-venv", can_make_venv=False),
        fake_python(tmp_path / "good", (3, 12, 1)),
    ]
    assert setup_env.find_python(candidates)["executable"] == candidates[-1]


def test_no_usable_python_lists_what_was_seen(setup_env, tmp_path):
    candidates = [
        str(tmp_path / "absent"),
        broken_shim(tmp_path / "shim"),
        fake_python(tmp_path / "python3.9", (3, 9, 18)),
    ]
    with pytest.raises(setup_env.SetupError) as caught:
        setup_env.find_python(candidates)
    message = str(caught.value)
    assert "needs Python 3.10, 3.11 or 3.12" in message
    assert "absent (not found)" in message
    assert "shim (no working Python 3)" in message
    assert "python3.9 (is 3.9.18)" in message
    assert "make env PYTHON=" in message


def test_missing_venv_module_names_the_package(setup_env, tmp_path):
    with pytest.raises(setup_env.SetupError, match=r"apt install python3\.11-venv"):
        setup_env.find_python([fake_python(tmp_path / "python3", can_make_venv=False)])


def test_named_python_is_not_silently_replaced(setup_env, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", fake_python(tmp_path / "python3.8", (3, 8, 18)))
    with pytest.raises(setup_env.SetupError, match=r"python3\.8 \(is 3\.8\.18\)"):
        setup_env.choose_python()


def test_pyenv_versions_are_found_without_being_on_the_path(setup_env, tmp_path):
    for version in ("3.9.18", "3.10.13", "3.12.1", "3.13.0"):
        fake_python(tmp_path / "pyenv" / "versions" / version / "bin" / "python")
    found = [Path(path).parts[-3] for path in setup_env.default_candidates()[4:]]
    assert found == ["3.12.1", "3.10.13"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": "armv7l", "bits": 32}, "32-bit on armv7l"),
        ({"machine": "ppc64le"}, "ppc64le"),
        ({"libc": ["", ""]}, r"another C library \(musl\?\)"),
        ({"libc": ["glibc", "2.17"]}, r"need glibc 2\.28 or later; this system has glibc 2\.17"),
        ({"system": "Darwin", "machine": "arm64"}, "not Darwin"),
    ],
)
def test_machine_without_pytorch_packages_is_refused(setup_env, tmp_path, changes, message):
    with pytest.raises(setup_env.SetupError, match=message) as caught:
        setup_env.find_python([fake_python(tmp_path / "python3", **changes)])
    assert "pip install -e ." in str(caught.value)


# When there is work to do


def make_present(setup_env, version=(3, 11, 4), root=None):
    """An environment that a set-up completed."""
    fake_python(Path(setup_env.VENV_PYTHON), version)
    key = setup_env.stamp_key(".".join(map(str, version)))
    Path(setup_env.STAMP).write_text(json.dumps({"key": key, "root": root or setup_env.ROOT}))


@pytest.fixture
def installations(setup_env, monkeypatch):
    """(python, version) of each installation that the script would have made."""
    made = []
    monkeypatch.setattr(
        setup_env.Installation, "run", lambda self, key: made.append((self.python, self.version))
    )
    return made


def test_complete_environment_is_left_alone(setup_env, installations, capsys):
    make_present(setup_env)
    assert setup_env.main() == 0
    assert installations == []
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changed",
    ["requirements/runtime.txt", "setup.py", "tools/find_python.py", "axial_d2/csrc/forward.h"],
)
def test_changed_source_completes_the_environment(setup_env, installations, changed):
    make_present(setup_env)
    with open(Path(setup_env.ROOT) / changed, "a") as file:
        file.write("# changed\n")
    assert setup_env.main() == 0
    assert installations == [(None, "3.11.4")]


def test_interrupted_environment_is_completed(setup_env, installations):
    make_present(setup_env)
    os.remove(setup_env.STAMP)
    assert setup_env.main() == 0
    assert installations == [(None, "3.11.4")]


def test_moved_checkout_gets_a_new_environment(setup_env, installations, tmp_path, monkeypatch):
    make_present(setup_env, root="/elsewhere")
    good = fake_python(tmp_path / "bin" / "python3", (3, 12, 1))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert setup_env.main() == 0
    assert installations == [(good, "3.12.1")]


def test_other_named_python_gets_a_new_environment(setup_env, installations, tmp_path, monkeypatch):
    make_present(setup_env)
    monkeypatch.setenv("PYTHON", fake_python(tmp_path / "other", (3, 10, 2)))
    assert setup_env.main() == 0
    assert installations == [(str(tmp_path / "other"), "3.10.2")]


def test_stamp_is_written_after_everything_else(setup_env, tmp_path, monkeypatch):
    make_present(setup_env)

    def fail(self):
        assert not os.path.exists(setup_env.STAMP)
        raise setup_env.SetupError("the index is down")

    monkeypatch.setattr(setup_env, "check_disk_space", lambda: None)
    monkeypatch.setattr(setup_env.Installation, "make_venv", lambda self: None)
    monkeypatch.setattr(setup_env.Installation, "install", fail)
    with pytest.raises(setup_env.SetupError, match="index is down"):
        setup_env.Installation(None, "3.11.4").run("key")
    assert not os.path.exists(setup_env.STAMP)
    assert not os.path.exists(setup_env.SCRATCH)

    monkeypatch.setattr(setup_env.Installation, "install", lambda self: None)
    setup_env.Installation(None, "3.11.4").run("key")
    assert setup_env.read_stamp() == {"key": "key", "root": setup_env.ROOT}


def test_half_installed_packages_are_forgotten(setup_env):
    site_packages = Path(setup_env.VENV) / "lib" / "python3.11" / "site-packages"
    whole = site_packages / "whole-1.0.dist-info"
    half = site_packages / "half-1.0.dist-info"
    leftover = site_packages / "~umpy"
    for folder in (whole, half, leftover):
        folder.mkdir(parents=True)
        (folder / "METADATA").touch()
    (whole / "INSTALLER").write_text("pip\n")
    setup_env.discard_half_installed()
    assert sorted(path.name for path in site_packages.iterdir()) == ["whole-1.0.dist-info"]


# What it says on failure


def test_full_disk_is_noticed_before_anything_is_done(setup_env, monkeypatch):
    usage = namedtuple("usage", "total used free")(2**40, 2**40, 2**30)
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(setup_env.SetupError, match=r"1\.0 GiB are free in .*, the set-up needs 8"):
        setup_env.check_disk_space()


def test_folder_of_another_kind_is_not_cleared(setup_env, tmp_path):
    precious = Path(setup_env.VENV) / "thesis.txt"
    precious.parent.mkdir()
    precious.touch()
    with pytest.raises(setup_env.SetupError, match="no virtual environment"):
        setup_env.Installation(sys.executable, "3.11.4").make_venv()
    assert precious.exists()


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("ERROR: [Errno 28] No space left on device", "the disk .* is full"),
        (
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'\n"
            "ERROR: No matching distribution found for torch==2.11.0",
            "index .* does not answer",
        ),
        ("ERROR: No matching distribution found for torch==2.11.0", "has no such package"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "another file"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "may not be written"),
        ("\nKilled", "out of memory"),
        ("segmentation fault", "does not know this failure"),
    ],
)
def test_failures_of_pip_are_explained(setup_env, output, reason):
    assert re.search(reason, setup_env.explain(output))


def test_failed_step_shows_output_reason_and_log(setup_env):
    os.makedirs(setup_env.VENV)
    Path(setup_env.LOG).touch()
    installation = setup_env.Installation(None, "3.11.4")
    installation.say("Detectron2 0.6")
    complaint = "import sys; print('Connection refused'); sys.exit(1)"
    with pytest.raises(setup_env.SetupError) as caught:
        installation.call([sys.executable, "-c", complaint])
    message = str(caught.value)
    assert "step 1/6 failed" in message
    assert "  | Connection refused" in message
    assert "does not answer" in message
    assert setup_env.LOG in message


# The files around it


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_readable_by_python_3_6(script):
    ast.parse(script.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("path", [*SCRIPTS, *REQUIREMENTS], ids=lambda path: path.name)
def test_no_package_index_is_named(path):
    assert "://" not in path.read_text()


def test_detectron2_is_pinned_by_checksum():
    lines = (REPOSITORY / "requirements" / "detectron2.txt").read_text()
    assert "pb1-detectron2==0.6 \\\n    --hash=sha256:" in lines


def setup_options(before: str = "") -> dict:
    """What setup.py gives to setuptools, extension modules by name."""
    code = (
        f"import json, runpy, setuptools; {before}\n"
        "def show(ext_modules=(), cmdclass=None, **options):\n"
        "    print(json.dumps({**options, 'extensions': [each.name for each in ext_modules]}))\n"
        "setuptools.setup = show; runpy.run_path('setup.py')"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def test_package_brings_neither_torch_nor_detectron2():
    options = setup_options()
    assert options["name"] == "axial_d2"
    assert options["python_requires"] == ">=3.10"
    required = " ".join(options["install_requires"]).lower()
    assert "torch" not in required
    assert "detectron2" not in required
    assert "axial_d2" in options["packages"]
    assert not [package for package in options["packages"] if package.startswith("tests")]


def test_kernels_are_built_for_the_torch_that_is_there_if_any():
    (extension,) = setup_options()["extensions"]
    assert extension.startswith("axial_d2._cpp_torch_")
    without = "import importlib.util; importlib.util.find_spec = lambda name: None"
    assert setup_options(without)["extensions"] == []


def test_make_help_lists_every_target():
    make = shutil.which("make")
    assert make, "the project's commands are make targets: install make"
    output = subprocess.run(
        [make, "-s", "-C", str(REPOSITORY)], capture_output=True, text=True, check=True
    ).stdout
    for target in ("help", "env", "demo", "test", "test-slow", "lint", "clean"):
        assert f"make {target} " in output
