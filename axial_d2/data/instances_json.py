"""Thing annotations from a COCO instances JSON, in Detectron2's format."""

from __future__ import annotations

from typing import Any

import pycocotools.mask as mask_util
from axial_d2.data import schema
from axial_d2.data.panoptic_json import PanopticJson, load_json, require_entry, require_list
from axial_d2.data.reading import DatasetError
from detectron2.structures import BoxMode


def _segmentation(where: str, annotation: dict[str, Any]) -> Any:
    """Polygons, or a compressed run-length mask; None where the annotation has no mask."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    polygons = [p for p in segmentation if len(p) % 2 == 0 and len(p) >= 6]
    if not polygons:
        raise DatasetError(
            f"{where} has no polygon of three or more points. Correct or remove the annotation."
        )
    return polygons


def _detectron2_annotation(
    path: str, annotation: dict[str, Any], contiguous: dict[int, int]
) -> dict[str, Any]:
    where = f"{path}: annotation {annotation.get('id')!r}"
    if annotation["category_id"] not in contiguous:
        raise DatasetError(
            f"{where} has category_id {annotation['category_id']!r}, which is not a thing of the "
            f"data set ({sorted(contiguous)}). Correct the annotation."
        )
    result = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous[annotation["category_id"]],
        "iscrowd": annotation.get("iscrowd", 0),
    }
    segmentation = _segmentation(where, annotation)
    if segmentation is not None:
        result["segmentation"] = segmentation
    return result


def _check_agreement(path: str, data: dict[str, Any], source: PanopticJson) -> None:
    """Refuses a file of other categories or images, which COCOEvaluator would trip over late."""
    given = {c["id"] for c in data["categories"]}
    if given != source.thing_ids:
        raise DatasetError(
            f"instances_json {path} has the categories {sorted(given)}, but the things of "
            f"{source.path} are {sorted(source.thing_ids)}. They must be the same; leave "
            "instances_json out to have instances derived from the panoptic PNGs."
        )
    absent = {a["image_id"] for a in source.annotations} - {i["id"] for i in data["images"]}
    if absent:
        raise DatasetError(
            f"instances_json {path} lacks {len(absent)} of the images of {source.path}, for "
            f"instance image id {min(absent, key=str)!r}. Give the file of the same split, or "
            "leave instances_json out to have instances derived from the panoptic PNGs."
        )


def load_thing_annotations(
    path: str, source: PanopticJson, contiguous: dict[int, int]
) -> dict[Any, list[dict[str, Any]]]:
    """Reads thing annotations.

    Args:
        path: COCO instances JSON.
        source: panoptic JSON of the same pictures.
        contiguous: from the things' category ids to class ids.

    Returns:
        By image id, ``annotations`` in Detectron2's format: ``bbox, bbox_mode, category_id``
        (contiguous), ``iscrowd`` and, where there is a mask, ``segmentation``.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: the file is malformed or its categories or images are not the panoptic ones.
    """
    data = load_json(path, "instances_json")
    for key in ("images", "categories"):
        for index, entry in enumerate(require_list(path, data, key, may_be_empty=True)):
            require_entry(path, f"{key}[{index}]", entry, {"id": (int, str)})
    _check_agreement(path, data, source)
    by_image: dict[Any, list[dict[str, Any]]] = {id_: [] for id_ in source.images}
    annotations = require_list(path, data, "annotations", may_be_empty=True)
    for index, annotation in enumerate(annotations):
        require_entry(path, f"annotations[{index}]", annotation, schema.INSTANCE)
        if annotation["image_id"] in by_image:
            by_image[annotation["image_id"]].append(
                _detectron2_annotation(path, annotation, contiguous)
            )
    return by_image
