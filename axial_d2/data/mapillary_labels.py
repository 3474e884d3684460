"""The classes of Mapillary Vistas, from the label file of a release."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from axial_d2.data import schema
from axial_d2.data.panoptic_json import load_json
from axial_d2.data.reading import DatasetError


@dataclass(frozen=True)
class Label:
    """One class of a label file.

    Attributes:
        index: its place in the file, which is its value in ``labels`` and ``instances`` PNGs.
        name: full name, such as "object--vehicle--car".
        readable: short name, such as "Car".
        instances: countable, a thing.
        evaluate: counts; classes that do not are void.
        color: RGB, 0 … 255.
    """

    index: int
    name: str
    readable: str
    instances: bool
    evaluate: bool
    color: tuple[int, int, int]


_LABEL: schema.Schema = {
    "name": (str,),
    "readable": (str,),
    "instances": (bool,),
    "evaluate": (bool,),
    "color": (list,),
}


def _label(path: str, index: int, entry: Any) -> Label:
    where = f"{path}: labels[{index}]"
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} is {entry!r}; it must be an object with {', '.join(_LABEL)}.")
    missing, invalid = schema.missing_keys(entry, _LABEL), schema.invalid_values(entry, _LABEL)
    if missing or invalid:
        found = [f"{key} is missing" for key in missing] + invalid
        raise DatasetError(
            f"{where} is wrong: {'; '.join(found)}. Take the label file from the release again."
        )
    values = {key: entry[key] for key in _LABEL}
    return Label(index=index, **{**values, "color": tuple(entry["color"])})


def read_label_file(path: str | os.PathLike) -> list[Label]:
    """Reads a release's label file, ``config_*.json``.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: it is no label file, or an entry lacks a key or has a wrong value.
    """
    text = os.fspath(path)
    entries = load_json(text, "label file").get("labels")
    if not isinstance(entries, list) or not entries:
        raise DatasetError(
            f"{text} has no list 'labels', so it is no label file of Mapillary Vistas. Take "
            "config_v1.2.json or config_v2.0.json from the release."
        )
    return [_label(text, index, entry) for index, entry in enumerate(entries)]


def category_ids(labels: Sequence[Label]) -> dict[int, int]:
    """From a label's index to its category id, void labels left out.

    As in the official panoptic JSONs, ids number the labels that count from 1.
    """
    counting = (label.index for label in labels if label.evaluate)
    return {index: id_ for id_, index in enumerate(counting, start=1)}


def label_categories(labels: Sequence[Label]) -> list[dict[str, Any]]:
    """COCO-panoptic ``categories`` of the labels that count.

    They are 65 of the 66 labels of v1.2 (37 of them things), 116 of the 124 of v2.0 (70 things).
    """
    ids = category_ids(labels)
    return [
        {
            "id": ids[label.index],
            "name": label.readable,
            "supercategory": label.name,
            "isthing": int(label.instances),
            "color": list(label.color),
        }
        for label in labels
        if label.evaluate
    ]


def check_categories(
    panoptic_json: str | os.PathLike,
    categories: Sequence[dict[str, Any]],
    label_file: str | os.PathLike,
) -> None:
    """Refuses a panoptic JSON whose categories are not those of the label file.

    Raises:
        DatasetError: a category is missing, unknown, or differs in name or kind.
    """
    expected = {c["id"]: c for c in label_categories(read_label_file(label_file))}
    given = {c.get("id"): c for c in categories}
    for id_ in sorted(expected.keys() ^ given.keys(), key=str):
        owner, other = (panoptic_json, label_file) if id_ in given else (label_file, panoptic_json)
        category = given.get(id_) or expected[id_]
        raise DatasetError(
            f"{owner} has the category {id_} ({category.get('name')!r}), which {other} does not "
            "have. Both must be of one version of Mapillary Vistas."
        )
    for id_, category in given.items():
        wanted = expected[id_]
        names = (wanted["name"], wanted["supercategory"])
        if category.get("name") not in names or category.get("isthing") != wanted["isthing"]:
            raise DatasetError(
                f"{panoptic_json}: category {id_} is {category.get('name')!r} with isthing "
                f"{category.get('isthing')!r}, but {label_file} has {wanted['name']!r} with "
                f"isthing {wanted['isthing']}. Both must be of one version of Mapillary Vistas."
            )
