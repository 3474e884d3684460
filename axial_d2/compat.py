"""Bridges between an old Detectron2 and newer companions.

Detectron2 0.6 was released before NumPy 1.24 removed ``np.bool`` and its siblings, before
Pillow 10 removed ``Image.LINEAR``; it imports its compiled operators unconditionally, and its
visualizer trusts that ``colorsys`` stays within [0, 1], which Python 3.10 to 3.11.4 do not.
Current Detectron2 (git main) needs none of this. Each bridge therefore looks at the source of
the *installed* Detectron2 and is built only where that source asks for something that the
machine does not have. Both versions call themselves 0.6, so the version number cannot tell.

Imported before anything of Detectron2; :mod:`axial_d2` does that. A program that imports
``axial_d2`` first thing needs to know nothing of this module.
"""

from __future__ import annotations

import colorsys
import importlib.util
import re
import sys
import types
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

# The files of Detectron2 that evaluate a NumPy alias.
_NUMPY_ALIAS_USERS = (
    "structures/masks.py",
    "data/build.py",
    "data/datasets/pascal_voc.py",
    "evaluation/pascal_voc_evaluation.py",
    "evaluation/sem_seg_evaluation.py",
    "utils/video_visualizer.py",
    "utils/visualizer.py",
)
_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "object": object, "str": str}
# Its HLS saturation is exactly 1, and 1 + 2e-16 where colorsys overshoots.
_COLOR_THAT_OVERSHOOTS = (1.0, 0.6, 0.6)


class MissingOperatorError(RuntimeError):
    """Raised when a compiled Detectron2 operator is used on a build that has none."""


class _UncompiledOperators(types.ModuleType):
    """Stands in for ``detectron2._C``: imports and reports itself, refuses to compute."""

    has_cuda = staticmethod(lambda: False)
    # Detectron2 logs these two in the environment summary of every run.
    get_compiler_version = staticmethod(lambda: "none, Detectron2's operators are not compiled")
    get_cuda_version = staticmethod(lambda: "not available")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise MissingOperatorError(
            f"detectron2._C.{name} needs Detectron2's compiled operators, which this installation "
            "lacks (deformable convolution and rotated boxes use them). Install a compiled "
            "Detectron2 to use it."
        )


class _OfficialCocoEvaluation(types.ModuleType):
    """Stands in for ``detectron2.evaluation.fast_eval_api``, whose speed is compiled code.

    It offers pycocotools' evaluation under the same name, which is what a current Detectron2
    does without compiled operators. The numbers are the same, the time is longer.
    """

    def __getattr__(self, name: str) -> Any:
        if name != "COCOeval_opt":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        from pycocotools.cocoeval import COCOeval

        return COCOeval


def detectron2_root() -> Path:
    """Folder of the installed ``detectron2`` package.

    Raises:
        ImportError: Detectron2 is not installed, or a folder that merely has its name hides it;
            the message says what to do.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        raise ImportError(
            "axial_d2 is a plugin for Detectron2, which is not installed in this Python "
            f"({sys.executable}). Run `make env` in the axial_d2 checkout for a ready-made "
            "environment, or install Detectron2 (0.6 or git main) yourself."
        )
    if spec.origin is None:
        folders = ", ".join(spec.submodule_search_locations or [])
        raise ImportError(
            f"the name detectron2 leads to {folders}, a folder without __init__.py that is not "
            "Detectron2 (often its git checkout, seen from the folder above). Start Python from "
            "another folder, or install Detectron2 (0.6 or git main)."
        )
    return Path(spec.origin).parent


def bridge_old_detectron2() -> list[str]:
    """Builds the bridges that the installed Detectron2 needs; safe to call repeatedly.

    Returns:
        Names of what was bridged now, empty for a current Detectron2.

    Raises:
        ImportError: Detectron2 is not installed.
    """
    root = detectron2_root()
    bridges: dict[str, Callable[[Path], bool]] = {
        "PIL.Image.LINEAR": _bridge_pillow,
        "NumPy aliases": _bridge_numpy,
        "detectron2._C": _bridge_compiled_operators,
        "detectron2.evaluation.fast_eval_api": _bridge_fast_coco_evaluation,
        "Visualizer label colours": _bridge_label_colors,
    }
    return [name for name, bridge in bridges.items() if bridge(root)]


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
    """Restores those of ``np.bool``, ``np.int``, ``np.float``… that Detectron2 evaluates."""
    import numpy as np

    sources = "\n".join(_source(root, path) for path in _NUMPY_ALIAS_USERS)
    used = set(re.findall(r"\bnp\.(bool|int|float|object|str)\b", sources))
    with warnings.catch_warnings():  # hasattr on a deprecated alias warns
        warnings.simplefilter("ignore")
        # NumPy 2 brought np.bool back with a new meaning that these uses accept.
        missing = sorted(name for name in used if not hasattr(np, name))
    for name in missing:
        setattr(np, name, _NUMPY_ALIASES[name])
    return bool(missing)


def _bridge_compiled_operators(root: Path) -> bool:
    """Provides an empty ``detectron2._C`` where the import is unconditional and would fail."""
    name = "detectron2._C"
    if (
        not _imports_unconditionally(root, "layers/deform_conv.py", "from detectron2 import _C")
        or name in sys.modules
        or importlib.util.find_spec(name) is not None
    ):
        return False
    _install(_UncompiledOperators(name))
    sys.modules["detectron2"]._C = sys.modules[name]  # type: ignore[attr-defined]
    return True


def _bridge_fast_coco_evaluation(root: Path) -> bool:
    """Lets ``COCOEvaluator`` fall back on pycocotools where the operators are the stand-in."""
    name = "detectron2.evaluation.fast_eval_api"
    if (
        not isinstance(sys.modules.get("detectron2._C"), _UncompiledOperators)
        or name in sys.modules
        or not _imports_unconditionally(
            root, "evaluation/coco_evaluation.py", f"from {name} import COCOeval_opt"
        )
    ):
        return False
    _install(_OfficialCocoEvaluation(name))
    return True


def _bridge_label_colors(root: Path) -> bool:
    """Clips the colour of a label, which Matplotlib refuses where it exceeds 1 by one bit.

    ``colorsys.rgb_to_hls`` of Python 3.10 to 3.11.4 returns saturations of 1 + 2e-16 (Python
    issue 106498); without this, drawing fails for about one label in twenty.
    """
    overshoots = colorsys.rgb_to_hls(*_COLOR_THAT_OVERSHOOTS)[2] > 1
    if not overshoots or "return modified_color" not in _source(root, "utils/visualizer.py"):
        return False
    from detectron2.utils.visualizer import Visualizer

    unclipped = Visualizer._change_color_brightness
    if unclipped.__module__ == __name__:
        return False

    def _change_color_brightness(self, color, brightness_factor):
        changed = unclipped(self, color, brightness_factor)
        return tuple(min(max(channel, 0.0), 1.0) for channel in changed)

    Visualizer._change_color_brightness = _change_color_brightness
    return True


def _imports_unconditionally(root: Path, relative_path: str, statement: str) -> bool:
    """Whether the file has the import statement unindented, hence outside of any ``try``."""
    source = _source(root, relative_path)
    return re.search(rf"^{re.escape(statement)}", source, re.MULTILINE) is not None


def _source(root: Path, relative_path: str) -> str:
    path = root / relative_path
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _install(module: types.ModuleType) -> None:
    module.__spec__ = ModuleSpec(module.__name__, loader=None, origin="axial_d2.compat")
    sys.modules[module.__name__] = module
