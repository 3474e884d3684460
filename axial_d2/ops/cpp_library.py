"""The compiled CPU kernels (axial_d2/csrc), where the installation built them.

The file's name says which PyTorch it was built for; one that was built for another is not loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[1]
STEM = "_cpp_torch_"


def module_name(torch_version: str) -> str:
    """Of the extension module inside the package, for a version such as "2.11.0+cpu"."""
    return STEM + re.sub(r"\W", "_", torch_version)


def find_obstacle() -> str | None:
    """Why there are no kernels for this PyTorch, in words; None if there are."""
    if _file() is not None:
        return None
    install = (
        "install axial_d2 again where PyTorch and a C++ compiler (g++ or clang) are: "
        "pip install --no-build-isolation --no-deps -e CHECKOUT"
    )
    others = sorted(path.name.split(".")[0].removeprefix(STEM) for path in _built())
    if others:
        return (
            f"the kernels were built for PyTorch {', '.join(others)}, and this is "
            f"{torch.__version__}; {install}"
        )
    return f"this installation built no kernels; {install}"


def load() -> None:
    """Registers the operators ``torch.ops.axial_d2_cpu``."""
    path = _file()
    assert path is not None
    torch.ops.load_library(str(path))


def _built() -> list[Path]:
    return [*FOLDER.glob(f"{STEM}*.so"), *FOLDER.glob(f"{STEM}*.pyd")]


def _file() -> Path | None:
    wanted = module_name(torch.__version__)
    return next((path for path in _built() if path.name.split(".")[0] == wanted), None)


_OBSTACLE = find_obstacle()


def obstacle() -> str | None:
    """What :func:`find_obstacle` said at the import; ``torch.compile`` can follow this."""
    return _OBSTACLE
