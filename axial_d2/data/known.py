"""Data sets that configs may name without saying where they lie, as with Detectron2's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial

from axial_d2.data.image_folder import register_image_folder
from axial_d2.data.mapillary import MAPILLARY_NAMES, register_mapillary_vistas
from axial_d2.data.missing import is_missing, register_missing
from axial_d2.data.reading import DatasetError
from detectron2.data import DatasetCatalog


def _register_mapillary(version: str, split: str, datasets: str) -> None:
    register_mapillary_vistas(os.path.join(datasets, "mapillary_vistas"), version, [split])


def _register_imagenet(split: str, datasets: str) -> None:
    register_image_folder(f"imagenet_{split}", os.path.join(datasets, "imagenet", split))


#: Name → what registers it, given the folder of all data sets.
KNOWN_DATASETS: dict[str, Callable[[str], None]] = {
    **{
        name: partial(_register_mapillary, version, split)
        for name, (version, split) in MAPILLARY_NAMES.items()
    },
    **{f"imagenet_{split}": partial(_register_imagenet, split) for split in ("train", "val")},
}


def register_known_datasets(names: Iterable[str], datasets: str | None = None) -> None:
    """Registers those of the names that are in ``KNOWN_DATASETS`` and not registered yet.

    A data set whose files are missing or malformed gets a stand-in, and using that raises what
    was found to be wrong.

    Args:
        names: of data sets, known or not.
        datasets: folder that holds ``mapillary_vistas`` and ``imagenet``; by default, as in
            Detectron2, the environment variable ``DETECTRON2_DATASETS``, or else ``datasets``.
    """
    folder = datasets or os.environ.get("DETECTRON2_DATASETS", "datasets")
    for name in names:
        if name not in KNOWN_DATASETS or (name in DatasetCatalog and not is_missing(name)):
            continue
        try:
            KNOWN_DATASETS[name](folder)
        except (FileNotFoundError, DatasetError) as error:
            hint = (
                f"Configs find {name} in the folder that the environment variable "
                f"DETECTRON2_DATASETS names, now {folder!r}."
            )
            register_missing(name, type(error)(f"{error} {hint}"))
