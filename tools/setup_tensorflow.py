#!/usr/bin/env python
"""Makes `.venv-tensorflow`, which reads DeepLab2's checkpoints (`make env-tensorflow`).

TensorFlow and what it needs are in the new environment; everything else (PyTorch, Detectron2,
axial_d2) it takes from the environment that this script runs in, which stays as it is. Run again,
it does nothing if nothing changed, and starts afresh where a run was interrupted.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from find_python import SetupError
from setup_env import clean_environment, explain, one_at_a_time

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-tensorflow"
PYTHON = FOLDER / "bin" / "python"
REQUIREMENTS = ROOT / "requirements" / "tensorflow.txt"
STAMP = FOLDER / "setup.txt"  # written last: the set-up is complete
GIBIBYTES = 1.7

VERIFY = """
import numpy, tensorflow, torch, axial_d2, detectron2
print(f"TensorFlow {tensorflow.__version__} beside PyTorch {torch.__version__}, NumPy "
      f"{numpy.__version__}, Detectron2 {detectron2.__version__}")
"""


def main() -> int:
    try:
        with one_at_a_time():
            set_up()
    except SetupError as error:
        print(f"\nmake env-tensorflow: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmake env-tensorflow: interrupted", file=sys.stderr)
        return 130
    return 0


def set_up() -> None:
    behind = sysconfig.get_path("purelib")
    numpy = f"numpy=={installed_numpy()}"
    key = stamp_key(behind, numpy)
    if STAMP.is_file() and STAMP.read_text() == key:
        print(f"environment: {FOLDER.name} is up to date", flush=True)
        return
    check_disk_space()
    start = time.time()
    print(
        f"environment: TensorFlow into {FOLDER.name} ({GIBIBYTES} GB on disk, a minute or two; "
        "only DeepLab2's checkpoints need it)",
        flush=True,
    )
    call([sys.executable, "-m", "venv", "--clear", str(FOLDER)])
    scratch = FOLDER / "tmp"
    scratch.mkdir()
    install = ["install", "--no-input", "--progress-bar", "off"]
    call([str(PYTHON), "-m", "pip", *install, "-r", str(REQUIREMENTS), numpy], TMPDIR=str(scratch))
    shutil.rmtree(scratch)
    link_packages(behind)
    print(f"      {call([str(PYTHON), '-c', VERIFY]).splitlines()[-1]}")
    STAMP.write_text(key)
    print(f"environment: {FOLDER.name} is ready after {time.time() - start:.0f} s", flush=True)


def installed_numpy() -> str:
    """Version of NumPy here, after a look whether this is axial_d2's environment at all."""
    missing = [name for name in ("numpy", "torch", "detectron2") if find_spec(name) is None]
    if missing:
        raise SetupError(
            f"{sys.executable} has no {', '.join(missing)}, so it is not the environment of "
            "axial_d2; run `make env-tensorflow`, or this script with the Python of that one."
        )
    return version("numpy")


def stamp_key(*parts: str) -> str:
    """Digest of everything that the environment is made from."""
    sources = [REQUIREMENTS.read_text(), Path(__file__).read_text(), str(ROOT), sys.version]
    return hashlib.sha256("\n".join([*parts, *sources]).encode()).hexdigest()


def check_disk_space() -> None:
    free = shutil.disk_usage(ROOT).free / 2.0**30
    if free < 2 * GIBIBYTES:  # while packages are unpacked
        raise SetupError(
            f"{free:.1f} GiB are free in {ROOT}, and {2 * GIBIBYTES:.1f} are needed; free some."
        )


def link_packages(behind: str) -> None:
    """Lets the new environment import what is in another one, its own packages first."""
    paths = {"base": str(FOLDER), "platbase": str(FOLDER)}
    own = Path(sysconfig.get_path("purelib", vars=paths))
    (own / "zz_axial_d2.pth").write_text(f"import site; site.addsitedir({behind!r})\n")


def call(command: list[str], **environment: str) -> str:
    """Output of a command; raises SetupError with its last lines if it fails."""
    process = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=clean_environment({}) | {"TMPDIR": str(ROOT)} | environment,
        cwd=ROOT,
        check=False,
    )
    if process.returncode:
        tail = "\n".join(f"  | {line[:200]}" for line in process.stdout.splitlines()[-15:])
        raise SetupError(
            f"TensorFlow cannot be set up; what was said last:\n{tail}\n"
            f"{explain(process.stdout, str(FOLDER))}\n"
            "The environment of axial_d2 is as it was, and everything but reading DeepLab2's "
            "checkpoints works without TensorFlow."
        )
    return process.stdout


if __name__ == "__main__":
    sys.exit(main())
