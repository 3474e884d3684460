"""Finds a Python that an environment for axial_d2 can be made from (used by setup_env.py).

Standard library of Python 3.6, like setup_env.py.
"""

import glob
import json
import os
import re
import shutil
import subprocess

SUPPORTED = ((3, 10), (3, 11), (3, 12))
MIN_GLIBC = (2, 28)  # what the PyTorch wheels are built for

PROBE = """
import json, platform, struct, sys
try:
    import ensurepip, venv
    can_make_venv = True
except ImportError:
    can_make_venv = False
print(json.dumps({
    "version": list(sys.version_info[:3]), "can_make_venv": can_make_venv,
    "system": platform.system(), "machine": platform.machine(), "bits": struct.calcsize("P") * 8,
    "libc": platform.libc_ver(), "executable": getattr(sys, "_base_executable", sys.executable),
}))
"""


class SetupError(Exception):
    """What went wrong and the remedy, for the user to read."""


def default_candidates() -> list:
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    versions = sorted(glob.glob(os.path.join(pyenv, "versions", "3.1[0-2].*", "bin", "python")))
    return ["python3", "python3.12", "python3.11", "python3.10", *reversed(versions)]


def find_python(candidates: list) -> dict:
    """First candidate that runs, is a supported version and can make virtual environments."""
    refused = []
    without_venv = None
    for candidate in candidates:
        info = probe(candidate)
        if info is None:
            reason = "no working Python 3" if shutil.which(candidate) else "not found"
        elif not is_supported(info):
            reason = "is " + version_text(info)
        elif not info["can_make_venv"]:
            reason = "lacks ensurepip"
            without_venv = without_venv or "{}.{}".format(*info["version"])
        else:
            check_machine(info)
            return info
        refused.append(f"{candidate} ({reason})")
    if without_venv:
        raise SetupError(
            f"Python {without_venv} is here, but not the part of it that makes virtual "
            f"environments.\nInstall that (Debian, Ubuntu: apt install python{without_venv}-venv) "
            "or name another Python: make env PYTHON=/path/to/python3.11"
        )
    raise SetupError(
        f"axial_d2 needs Python 3.10, 3.11 or 3.12. Looked at: {', '.join(refused)}.\n"
        "Install one (Debian, Ubuntu: apt install python3 python3-venv; elsewhere pyenv or conda) "
        "or name one: make env PYTHON=/path/to/python3.11"
    )


def probe(python: str) -> dict:
    """What the interpreter says of itself; None where it does not run (a pyenv shim may not)."""
    try:
        output = subprocess.check_output(
            [python, "-I", "-c", PROBE],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
        return json.loads(output.decode())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def is_supported(info: dict) -> bool:
    return tuple(info["version"][:2]) in SUPPORTED


def version_text(info: dict) -> str:
    return ".".join(str(part) for part in info["version"])


def check_machine(info: dict) -> None:
    """Raises SetupError where PyTorch has no packages for the machine."""
    elsewhere = "Here, install PyTorch and Detectron2 yourself, then run `pip install -e .`"
    if info["system"] != "Linux":
        raise SetupError(f"the set-up knows Linux, not {info['system']}. {elsewhere}")
    if info["machine"] not in ("x86_64", "aarch64") or info["bits"] != 64:
        raise SetupError(
            "PyTorch has packages for 64-bit x86_64 and aarch64 processors; this Python is "
            f"{info['bits']}-bit on {info['machine']}. {elsewhere}"
        )
    name, version = info["libc"]
    if name != "glibc" or tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < MIN_GLIBC:
        libc = f"{name} {version}".strip() or "another C library (musl?)"
        raise SetupError(
            f"PyTorch's packages need glibc {MIN_GLIBC[0]}.{MIN_GLIBC[1]} or later; this system "
            f"has {libc}. {elsewhere}"
        )
