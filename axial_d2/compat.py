"""Bridges between an old Detectron2 and newer companions.

Detectron2 0.6 was released before NumPy 1.24 removed ``np.bool`` and its siblings, before
Pillow 10 removed ``Image.LINEAR``, and it imports its compiled operators unconditionally.
Current Detectron2 (git main) needs none of this. Each bridge therefore looks at the source of
the *installed* Detectron2 and is built only where that source asks for something that the
machine does not have. Both versions call themselves 0.6, so the version number cannot tell.

Imported before anything of Detectron2; :mod:`axial_d2` does that.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import types
from pathlib import Path

_REMOVED_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "object": object, "str": str}


class MissingOperatorError(RuntimeError):
    """Raised when a compiled Detectron2 operator is used on a build that has none."""


def detectron2_root() -> Path:
    """Folder of the installed ``detectron2`` package.

    Raises:
        ImportError: Detectron2 is not installed; the message says how to install it.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "axial_d2 is a plugin for Detectron2, which is not installed in this Python "
            f"({sys.executable}). Run `make env` in the axial_d2 checkout for a ready-made "
            "environment, or install Detectron2 (0.6 or git main) yourself."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _source(root: Path, relative_path: str) -> str:
    path = root / relative_path
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _bridge_compiled_operators(root: Path) -> bool:
    """Provides an empty ``detectron2._C`` where the import is unconditional and would fail."""
    unconditional = re.search(
        r"^from detectron2 import _C", _source(root, "layers/deform_conv.py"), re.MULTILINE
    )
    if (
        not unconditional
        or "detectron2._C" in sys.modules
        or importlib.util.find_spec("detectron2._C") is not None
    ):
        return False

    operators = types.ModuleType("detectron2._C", "Stands in for operators that were not compiled.")

    def missing_operator(name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise MissingOperatorError(
            f"detectron2._C.{name} needs Detectron2's compiled operators, which this installation "
            "lacks (only deformable convolution, rotated boxes and the fast COCO evaluator use "
            "them). Install a compiled Detectron2 to use it."
        )

    operators.__getattr__ = missing_operator  # type: ignore[method-assign]
    sys.modules["detectron2._C"] = operators
    importlib.import_module("detectron2")._C = operators  # type: ignore[attr-defined]
    return True


def _bridge_pillow(root: Path) -> bool:
    """Restores ``PIL.Image.LINEAR``, an alias of BILINEAR."""
    from PIL import Image

    if hasattr(Image, "LINEAR") or "Image.LINEAR" not in _source(
        root, "data/transforms/transform.py"
    ):
        return False
    Image.LINEAR = Image.BILINEAR  # type: ignore[attr-defined]
    return True


def _bridge_numpy(root: Path) -> bool:
    """Restores ``np.bool``, ``np.int``, ``np.float``, ``np.object`` and ``np.str``."""
    import numpy as np

    sources = _source(root, "structures/masks.py") + _source(
        root, "evaluation/sem_seg_evaluation.py"
    )
    if not re.search(r"\bnp\.(bool|int|float|object|str)\b", sources):
        return False
    # NumPy 2 brought np.bool back with a new meaning that these uses accept.
    missing = {
        name: builtin
        for name, builtin in _REMOVED_NUMPY_ALIASES.items()
        if name not in np.__dict__
    }
    for name, builtin in missing.items():
        setattr(np, name, builtin)
    return bool(missing)


def bridge_old_detectron2() -> list[str]:
    """Builds the bridges that the installed Detectron2 needs; safe to call repeatedly.

    Returns:
        Names of what was bridged now, empty for a current Detectron2.

    Raises:
        ImportError: Detectron2 is not installed.
    """
    root = detectron2_root()
    bridges = {
        "PIL.Image.LINEAR": _bridge_pillow,
        "NumPy aliases": _bridge_numpy,
        "detectron2._C": _bridge_compiled_operators,
    }
    return [name for name, bridge in bridges.items() if bridge(root)]
