"""Reads a COCO-panoptic JSON and says precisely what is wrong with a malformed one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from axial_d2.data import schema
from axial_d2.data.reading import DatasetError
from detectron2.utils.file_io import PathManager

_FORMAT = "https://cocodataset.org/#format-data (4. Panoptic Segmentation) describes the format"


@dataclass(frozen=True)
class PanopticJson:
    """A sound COCO-panoptic JSON.

    Attributes:
        path: file it came from.
        categories: entries with ``id, name, isthing`` and perhaps ``color``.
        images: entries with ``id, file_name, height, width``, by image id.
        annotations: entries with ``image_id, file_name, segments_info``.
    """

    path: str
    categories: list[dict[str, Any]]
    images: dict[Any, dict[str, Any]]
    annotations: list[dict[str, Any]]

    @property
    def thing_ids(self) -> set[int]:
        return {c["id"] for c in self.categories if c["isthing"]}


def load_json(path: str, argument: str) -> dict[str, Any]:
    """Loads a JSON file that holds an object.

    Args:
        path: file or URI.
        argument: name of the argument that gave the path, for error messages.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: the file is not JSON, or not an object.
    """
    if not PathManager.isfile(path):
        raise FileNotFoundError(
            f"{argument} is {path!r}, which is not a file. Give the path of an existing COCO JSON "
            "(relative paths start at the current folder)."
        )
    try:
        with PathManager.open(path) as file:
            data = json.load(file)
    except ValueError as error:
        raise DatasetError(
            f"{argument} {path} is not valid JSON ({error}). Write or download the file again."
        ) from error
    if not isinstance(data, dict):
        raise DatasetError(
            f"{argument} {path} holds a {type(data).__name__}; it must be an object. {_FORMAT}."
        )
    return data


def require_list(
    path: str, data: dict[str, Any], key: str, may_be_empty: bool = False
) -> list[dict[str, Any]]:
    """``data[key]``, a list of objects; raises :class:`DatasetError` where it is not."""
    if key not in data:
        raise DatasetError(
            f"{path} has no {key!r} (it has {', '.join(sorted(data)) or 'nothing'}). {_FORMAT}."
        )
    if not isinstance(data[key], list) or not all(isinstance(e, dict) for e in data[key]):
        raise DatasetError(f"{path}: {key!r} must be a list of objects. {_FORMAT}.")
    if not data[key] and not may_be_empty:
        raise DatasetError(
            f"{path}: {key!r} is empty, so there is nothing to train or evaluate on. Check how "
            "the file was made."
        )
    return data[key]


def require_entry(path: str, where: str, entry: Any, keys: schema.Schema) -> None:
    """Raises :class:`DatasetError` unless the entry has all keys, with values of their types."""
    if not isinstance(entry, dict):
        raise DatasetError(f"{path}: {where} is {entry!r}; it must be an object. {_FORMAT}.")
    missing = schema.missing_keys(entry, keys)
    if missing:
        raise DatasetError(
            f"{path}: {where} lacks {', '.join(missing)} (it has {', '.join(sorted(entry))}). "
            f"Required are {', '.join(keys)}; {_FORMAT}."
        )
    invalid = schema.invalid_values(entry, keys)
    if invalid:
        raise DatasetError(f"{path}: {where} is wrong: {'; '.join(invalid)}. Correct the file.")


def _require_unique(path: str, what: str, values: Iterable[Any], remedy: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise DatasetError(f"{path}: {what} {value!r} occurs more than once. {remedy}")
        seen.add(value)


def _check_annotation(path: str, annotation: dict[str, Any], category_ids: set[int]) -> None:
    where = f"the annotation of image id {annotation['image_id']!r}"
    for segment in annotation["segments_info"]:
        id_ = segment.get("id") if isinstance(segment, dict) else None
        require_entry(path, f"segment {id_} in {where}", segment, schema.SEGMENT)
        if segment["category_id"] not in category_ids:
            raise DatasetError(
                f"{path}: segment {id_} in {where} has category_id {segment['category_id']!r}, "
                f"which is not in categories ({sorted(category_ids)}). Add the category or "
                "correct the segment."
            )
    ids = (segment["id"] for segment in annotation["segments_info"])
    remedy = "Give every segment of a picture its own id."
    _require_unique(path, f"in {where} segment id", ids, remedy)


def _check_annotations(path: str, source: PanopticJson) -> None:
    image_ids = (annotation["image_id"] for annotation in source.annotations)
    remedy = "Merge an image's annotations into one."
    _require_unique(path, "an annotation of image id", image_ids, remedy)
    category_ids = {category["id"] for category in source.categories}
    for annotation in source.annotations:
        if annotation["image_id"] not in source.images:
            raise DatasetError(
                f"{path}: the annotation {annotation['file_name']} belongs to image id "
                f"{annotation['image_id']!r}, which is not in 'images'. Add the image or remove "
                "the annotation."
            )
        _check_annotation(path, annotation, category_ids)


def read_panoptic_json(path: str) -> PanopticJson:
    """Reads and checks a COCO-panoptic JSON; opens no picture.

    Images without an annotation are left to the caller.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: a key is missing or has a wrong value, a list is empty, ids repeat, an
            annotation's image or category does not exist; the message names the file, the entry
            and the remedy.
    """
    data = load_json(path, "panoptic_json")
    for key, keys in (
        ("categories", schema.CATEGORY),
        ("images", schema.IMAGE),
        ("annotations", schema.ANNOTATION),
    ):
        for index, entry in enumerate(require_list(path, data, key)):
            require_entry(path, f"{key}[{index}]", entry, keys)
    for key, what in (("categories", "category"), ("images", "image")):
        ids = (entry["id"] for entry in data[key])
        _require_unique(path, f"{what} id", ids, f"Give every {what} its own id.")
    images = {image["id"]: image for image in data["images"]}
    source = PanopticJson(path, data["categories"], images, data["annotations"])
    _check_annotations(path, source)
    return source
