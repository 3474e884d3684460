"""What the functions that register data sets share."""

from __future__ import annotations

import os
from typing import Any

from axial_d2.data.missing import is_missing
from detectron2.data import DatasetCatalog


def local_path(path: str | os.PathLike) -> str:
    """An absolute path, so that changing the folder changes no data set; URIs are kept."""
    text = os.fspath(path)
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))


def is_registered(name: str, dataset: Any) -> bool:
    """Whether the very same data set has this name already; a stand-in does not count.

    Args:
        name: in ``DatasetCatalog``.
        dataset: the callable that would be registered; compared by ``==``.

    Raises:
        ValueError: another data set has the name.
    """
    if name not in DatasetCatalog or is_missing(name):
        return False
    registered = DatasetCatalog[name]
    if registered == dataset:
        return True
    raise ValueError(
        f"A data set named {name!r} is already registered, with {registered}; now given is "
        f"{dataset}. Choose another name, or call DatasetCatalog.remove({name!r}) first."
    )
