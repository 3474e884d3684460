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


def refuse_derivative(operator: str) -> None:
    """Makes the derivative of an ``axial_d2_cpu`` operator an error, not silently zero."""

    def refuse(ctx, *gradients):
        raise RuntimeError(
            f"{operator} has no autograd formula: the C++ kernels have first derivatives alone; "
            'for second ones choose the attention implementation "reference".'
        )

    torch.library.register_autograd(f"axial_d2_cpu::{operator}", refuse)


def like(tensor: torch.Tensor) -> torch.Tensor:
    """Dense, its dimensions in memory in the order of the tensor's, as the kernels' results."""
    order = sorted(range(tensor.dim()), key=lambda dim: tensor.stride()[dim], reverse=True)
    sizes = [tensor.shape[dim] for dim in order]
    inverse = [order.index(dim) for dim in range(tensor.dim())]
    return tensor.new_empty(sizes).permute(inverse)


def _built() -> list[Path]:
    return [*FOLDER.glob(f"{STEM}*.so"), *FOLDER.glob(f"{STEM}*.pyd")]


def _file() -> Path | None:
    wanted = module_name(torch.__version__)
    return next((path for path in _built() if path.name.split(".")[0] == wanted), None)


_OBSTACLE = find_obstacle()


def obstacle() -> str | None:
    """What :func:`find_obstacle` said at the import; ``torch.compile`` can follow this."""
    return _OBSTACLE
