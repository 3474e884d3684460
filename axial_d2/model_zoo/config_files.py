"""Where the configs are: in a checkout's ``configs``, or beside this after an installation."""

from __future__ import annotations

import difflib
from pathlib import Path

from axial_d2.model_zoo.published import SECTIONS, DatasetSection

_INSTALLED = Path(__file__).parent / "configs"
_CHECKOUT = Path(__file__).parents[2] / "configs"


def config_root() -> Path:
    """The folder of all configs.

    Raises:
        FileNotFoundError: neither place has them.
    """
    for folder in (_CHECKOUT, _INSTALLED):
        if (folder / "Base-AxialDeepLab.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"the configs are neither in {_INSTALLED} nor in {_CHECKOUT}; install axial_d2 again, from "
        "a complete checkout."
    )


def config_names(section: DatasetSection | None = None, root: Path | None = None) -> list[str]:
    """Names of configs, such as "coco/axial_deeplab_s", bases left out.

    Args:
        section: a data set; default all.
        root: folder of all configs, default :func:`config_root`.
    """
    if section is None:
        return [name for each in SECTIONS for name in config_names(each, root)]
    files = ((root or config_root()) / section.folder).glob("*.yaml")
    names = [f"{section.folder}/{file.stem}" for file in files if not file.stem.startswith("Base")]
    return sorted(names, key=_by_size)


def get_config_file(name: str) -> str:
    """Path of a config.

    Args:
        name: such as "cityscapes/axial_deeplab_l", with or without ".yaml".

    Raises:
        ValueError: there is no such config; the message has names that are close.
    """
    stem = normalised(name)
    file = config_root() / f"{stem}.yaml"
    if file.is_file():
        return str(file)
    names = config_names()
    close = difflib.get_close_matches(stem, names, n=3, cutoff=0.5)
    listed = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}."
    raise ValueError(f"there is no config {name!r}; {listed}")


def normalised(name: str) -> str:
    """A config's name without ".yaml"."""
    return name.removesuffix(".yaml")


def _by_size(name: str) -> tuple:
    """S, M, L, XL in this order, the rest by name."""
    stem, _, size = name.rpartition("_")
    sizes = ("s", "m", "l", "xl")
    return (stem, sizes.index(size), "") if size in sizes else (name, -1, "")
