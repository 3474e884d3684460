"""Registers Mapillary Vistas; :mod:`axial_d2.data.mapillary_layout` draws the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from axial_d2.data.categories import class_metadata
from axial_d2.data.mapillary_labels import check_categories, label_categories, read_label_file
from axial_d2.data.mapillary_layout import RELEASES, SPLITS, MapillarySplit
from axial_d2.data.panoptic import PanopticDataset, PanopticMetadata
from axial_d2.data.panoptic_json import load_json
from axial_d2.data.reading import DatasetError
from axial_d2.data.registering import is_registered
from detectron2.data import DatasetCatalog, MetadataCatalog

IGNORE_LABEL = 255
#: Name in configs → version and split.
MAPILLARY_NAMES = {
    f"mapillary_vistas_{version}_panoptic_{split}": (version, split)
    for version in RELEASES
    for split in SPLITS
}


@dataclass(frozen=True)
class MapillaryDataset(PanopticDataset):
    """A panoptic data set whose classes come from a label file; loading checks that they agree."""

    label_file: str

    def __call__(self) -> list[dict[str, Any]]:
        categories = load_json(self.panoptic_json, "panoptic_json").get("categories", [])
        check_categories(self.panoptic_json, categories, self.label_file)
        return super().__call__()


def _prepare_command(paths: MapillarySplit) -> str:
    return f"`python tools/prepare_mapillary.py --root {paths.root} --version {paths.version}`"


def _prepared_files(paths: MapillarySplit) -> dict[str, str] | None:
    """What preparation made, as arguments of a data set; None where it never ran.

    Raises:
        DatasetError: preparation is unfinished.
    """
    prepared = paths.prepared
    if not prepared.manifest.is_file():
        return None
    manifest = json.loads(prepared.manifest.read_text(encoding="utf-8"))
    if not manifest["finished"]:
        raise DatasetError(
            f"The preparation of {prepared.path} is unfinished. Run {_prepare_command(paths)} "
            "again, with the same options, to go on where it stopped; or delete the folder."
        )
    files = {
        "instances_json": str(prepared.instances_json),
        "sem_seg_root": str(prepared.semantic_root),
    }
    if prepared.panoptic_json.is_file():
        files["panoptic_json"] = str(prepared.panoptic_json)
        files["panoptic_root"] = str(prepared.panoptic_root)
    return files


def _dataset(paths: MapillarySplit) -> MapillaryDataset:
    label_file = paths.require_label_file()
    files: dict[str, Any] = {
        "panoptic_json": str(paths.panoptic_json),
        "panoptic_root": str(paths.panoptic_root),
        "instances_json": None,
        "sem_seg_root": None,
        **(_prepared_files(paths) or {}),
    }
    if not os.path.isfile(files["panoptic_json"]):
        raise FileNotFoundError(
            f"{files['panoptic_json']} does not exist. Unpack it from the release; where the "
            f"release has {paths.instances} alone, {_prepare_command(paths)} makes it."
        )
    if not paths.images.is_dir():
        raise FileNotFoundError(
            f"{paths.images} does not exist. Unpack the images of the release there."
        )
    return MapillaryDataset(
        image_root=str(paths.images),
        label_divisor=1000,
        ignore_label=IGNORE_LABEL,
        evaluator_type="coco_panoptic_seg",
        label_file=str(label_file),
        **files,
    )


def _metadata(name: str, dataset: MapillaryDataset) -> PanopticMetadata:
    fields = asdict(dataset)
    # Absent where derived: PanopticMetadata then derives them when they are asked for.
    fields["json_file"] = fields.pop("instances_json")
    given = {key: value for key, value in fields.items() if value is not None}
    classes = class_metadata(label_categories(read_label_file(dataset.label_file)))
    return PanopticMetadata(name=name, dataset=dataset, **given, **classes)


def register_mapillary_vistas(
    root: str | os.PathLike,
    version: str = "v1.2",
    splits: Sequence[str] = ("train", "val"),
) -> list[str]:
    """Registers a Mapillary Vistas release in ``DatasetCatalog`` and ``MetadataCatalog``.

    Classes, things and colours come from the label file, which is all that is read now. Labels
    that are not evaluated are void: no class, 255 in semantic maps. What
    ``tools/prepare_mapillary.py`` made is used; without it the released panoptic files are, and
    instances and semantic maps are derived on first use, which takes hours.

    Args:
        root: folder that holds the label file, ``training`` and ``validation``.
        version: "v1.2" (65 classes, 37 of them things) or "v2.0" (116, 70 of them things).
        splits: some of "train" and "val".

    Returns:
        The names, ``mapillary_vistas_{version}_panoptic_{split}``.

    Raises:
        FileNotFoundError: the label file, a panoptic JSON or an image folder is missing.
        ValueError: the version or a split is unknown, a name is taken by another data set, or
            preparation is unfinished. Registering the same again is fine.
    """
    names = []
    for split in splits:
        paths = MapillarySplit.of(root, version, split)
        dataset = _dataset(paths)
        name = f"mapillary_vistas_{version}_panoptic_{split}"
        _register(name, dataset)
        names.append(name)
    return names


def _register(name: str, dataset: MapillaryDataset) -> None:
    if not is_registered(name, dataset):
        MetadataCatalog[name] = _metadata(name, dataset)
        DatasetCatalog[name] = dataset
