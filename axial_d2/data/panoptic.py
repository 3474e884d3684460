"""Registers any COCO-panoptic data set with Detectron2 in one call."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from axial_d2.data.categories import class_metadata
from axial_d2.data.derived import DerivedFiles, ensure_derived, semantic_file_name
from axial_d2.data.instances_json import load_thing_annotations
from axial_d2.data.panoptic_json import PanopticJson, read_panoptic_json
from axial_d2.data.reading import DatasetError
from axial_d2.data.registering import is_registered, local_path
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PanopticDataset:
    """What a data set was registered with; calling it loads the data set's dicts."""

    image_root: str
    panoptic_root: str
    panoptic_json: str
    instances_json: str | None
    sem_seg_root: str | None
    label_divisor: int
    ignore_label: int
    evaluator_type: str

    def derived(self, source: PanopticJson | None = None) -> DerivedFiles:
        """The derived ground truth, made now if need be."""
        return ensure_derived(self.panoptic_json, self.panoptic_root, self.ignore_label, source)

    def __call__(self) -> list[dict[str, Any]]:
        return load_panoptic_dicts(self)


class PanopticMetadata(Metadata):
    """Metadata whose ``json_file`` and ``sem_seg_root`` are derived when first asked for.

    A ``COCOEvaluator`` may thus be built before the data set is loaded.
    """

    def __getattr__(self, key: str) -> Any:
        dataset = self.__dict__.get("dataset")
        if dataset is None or key not in ("json_file", "sem_seg_root"):
            return super().__getattr__(key)
        derived = dataset.derived()
        value = derived.instances_json if key == "json_file" else derived.semantic_root
        self.__dict__[key] = value  # Metadata's own setter would ask for the old value
        return value


def _image_dict(
    dataset: PanopticDataset,
    source: PanopticJson,
    annotation: dict[str, Any],
    contiguous: dict[int, int],
    sem_seg_root: str,
) -> dict[str, Any]:
    image = source.images[annotation["image_id"]]
    things = source.thing_ids
    return {
        "file_name": os.path.join(dataset.image_root, image["file_name"]),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
        "pan_seg_file_name": os.path.join(dataset.panoptic_root, annotation["file_name"]),
        "sem_seg_file_name": semantic_file_name(sem_seg_root, annotation["file_name"]),
        "segments_info": [
            {
                "id": segment["id"],
                "category_id": contiguous[segment["category_id"]],
                "isthing": segment["category_id"] in things,
                "iscrowd": segment["iscrowd"],
                "area": segment["area"],
                "bbox": segment["bbox"],
            }
            for segment in annotation["segments_info"]
        ],
    }


def _require_files(dataset: PanopticDataset, first: dict[str, Any]) -> None:
    """Checks the first picture's files, which a wrong root would miss."""
    roots = {
        "file_name": ("image_root", dataset.image_root),
        "pan_seg_file_name": ("panoptic_root", dataset.panoptic_root),
        "sem_seg_file_name": ("sem_seg_root", dataset.sem_seg_root),
    }
    for key, (argument, root) in roots.items():
        if not PathManager.isfile(first[key]):
            raise DatasetError(
                f"{first[key]} does not exist, though {dataset.panoptic_json} lists it. "
                f"{argument} is {root!r}: give the folder that file names in the JSON start from."
                " If single files are missing, tools/check_dataset.py lists them."
            )


def load_panoptic_dicts(dataset: PanopticDataset) -> list[dict[str, Any]]:
    """Loads a data set in Detectron2's format; opens no picture once ground truth is derived.

    Returns:
        One dict for each annotation of the panoptic JSON: ``file_name, image_id, height, width,
        pan_seg_file_name, sem_seg_file_name``; ``segments_info`` with ``id, category_id``
        (contiguous), ``isthing, iscrowd, area, bbox`` (xywh, pixels); ``annotations`` of the
        things with ``bbox, bbox_mode, category_id`` (contiguous), ``iscrowd, segmentation``.

    Raises:
        FileNotFoundError: a JSON file is missing.
        DatasetError: a file is malformed, or a root folder is wrong.
    """
    source = read_panoptic_json(dataset.panoptic_json)
    skipped = len(source.images) - len(source.annotations)
    if skipped:
        logger.warning("%s: %d images have no annotation.", dataset.panoptic_json, skipped)
    classes = class_metadata(source.categories)
    instances_json, sem_seg_root = dataset.instances_json, dataset.sem_seg_root
    if instances_json is None or sem_seg_root is None:
        derived = dataset.derived(source)
        instances_json = instances_json or derived.instances_json
        sem_seg_root = sem_seg_root or derived.semantic_root
    contiguous = classes["stuff_dataset_id_to_contiguous_id"]
    dicts = [
        _image_dict(dataset, source, annotation, contiguous, sem_seg_root)
        for annotation in source.annotations
    ]
    _require_files(dataset, dicts[0])
    things = load_thing_annotations(
        instances_json, source, classes["thing_dataset_id_to_contiguous_id"]
    )
    for record in dicts:
        record["annotations"] = things[record["image_id"]]
    return dicts


def _check_numbers(dataset: PanopticDataset, num_classes: int) -> None:
    if not isinstance(dataset.label_divisor, int) or dataset.label_divisor < 2:
        raise ValueError(
            f"label_divisor is {dataset.label_divisor!r}; it must be an integer of 2 or more, "
            "larger than the number of instances of a class in any picture (usually 1000)."
        )
    ignore = dataset.ignore_label
    if not isinstance(ignore, int) or not num_classes <= ignore <= 65535:
        raise ValueError(
            f"ignore_label is {ignore!r}, but {dataset.panoptic_json} has {num_classes} classes: "
            f"it must be an integer from {num_classes} to 65535 (usually 255)."
        )


def register_panoptic_dataset(
    name: str,
    image_root: str | os.PathLike,
    panoptic_root: str | os.PathLike,
    panoptic_json: str | os.PathLike,
    *,
    instances_json: str | os.PathLike | None = None,
    sem_seg_root: str | os.PathLike | None = None,
    label_divisor: int = 1000,
    ignore_label: int = 255,
    evaluator_type: str = "coco_panoptic_seg",
) -> None:
    """Registers a COCO-panoptic data set in ``DatasetCatalog`` and ``MetadataCatalog``.

    The JSON is read and checked now; pictures only when the data set is used. Classes, ids and
    colours come from its ``categories`` (:mod:`axial_d2.data.categories` says in which order).
    What is not given is derived from the panoptic PNGs on first use and kept
    (:mod:`axial_d2.data.derived` says where).

    Args:
        name: of the data set in configs, such as "pets_train".
        image_root: folder that ``images[].file_name`` starts from; any file type, sub-folders
            allowed.
        panoptic_root: folder that ``annotations[].file_name`` (PNGs) starts from.
        panoptic_json: COCO-panoptic JSON.
        instances_json: COCO instances JSON with the same images, and the things as categories;
            derived where None.
        sem_seg_root: folder of PNGs named as the panoptic ones, holding contiguous class ids and
            ``ignore_label``; derived where None.
        label_divisor: panoptic label = class · ``label_divisor`` + instance.
        ignore_label: semantic label of pixels without a class, from the number of classes to
            65535; above 255 the derived PNGs have 16 bits.
        evaluator_type: for the training script's choice of evaluators.

    Raises:
        FileNotFoundError: a JSON file does not exist.
        ValueError: ``name`` is taken by another data set, or a number is out of range.
            Registering the same again is fine.
        DatasetError: the JSON is malformed or empty (a ``ValueError``).
    """
    dataset = PanopticDataset(
        image_root=local_path(image_root),
        panoptic_root=local_path(panoptic_root),
        panoptic_json=local_path(panoptic_json),
        instances_json=None if instances_json is None else local_path(instances_json),
        sem_seg_root=None if sem_seg_root is None else local_path(sem_seg_root),
        label_divisor=label_divisor,
        ignore_label=ignore_label,
        evaluator_type=evaluator_type,
    )
    if is_registered(name, dataset):
        return
    source = read_panoptic_json(dataset.panoptic_json)
    if dataset.instances_json is not None and not PathManager.isfile(dataset.instances_json):
        raise FileNotFoundError(
            f"instances_json is {dataset.instances_json!r}, which is not a file. Correct the path "
            "or leave it out to have instances derived from the panoptic PNGs."
        )
    classes = class_metadata(source.categories)
    _check_numbers(dataset, len(classes["stuff_classes"]))
    MetadataCatalog[name] = _metadata(name, dataset, classes)
    DatasetCatalog[name] = dataset


def _metadata(name: str, dataset: PanopticDataset, classes: dict[str, Any]) -> PanopticMetadata:
    metadata = PanopticMetadata(
        name=name,
        dataset=dataset,
        image_root=dataset.image_root,
        panoptic_root=dataset.panoptic_root,
        panoptic_json=dataset.panoptic_json,
        label_divisor=dataset.label_divisor,
        ignore_label=dataset.ignore_label,
        evaluator_type=dataset.evaluator_type,
        **classes,
    )
    given = {"json_file": dataset.instances_json, "sem_seg_root": dataset.sem_seg_root}
    metadata.__dict__.update({key: value for key, value in given.items() if value is not None})
    return metadata
