"""Which keys the entries of a COCO-panoptic JSON must have, and what types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, tuple[type, ...]]

CATEGORY: Schema = {"id": (int,), "name": (str,), "isthing": (int,)}
IMAGE: Schema = {"id": (int, str), "file_name": (str,), "height": (int,), "width": (int,)}
ANNOTATION: Schema = {"image_id": (int, str), "file_name": (str,), "segments_info": (list,)}
SEGMENT: Schema = {
    "id": (int,),
    "category_id": (int,),
    "area": (int, float),
    "bbox": (list,),
    "iscrowd": (int,),
}
#: Of an entry of ``annotations`` in a COCO instances JSON.
INSTANCE: Schema = {"image_id": (int, str), "category_id": (int,), "bbox": (list,)}

LARGEST_SEGMENT_ID = 256**3 - 1


def missing_keys(entry: Mapping[str, Any], schema: Schema) -> list[str]:
    """Keys of the schema that the entry lacks."""
    return [key for key in schema if key not in entry]


def invalid_values(entry: Mapping[str, Any], schema: Schema) -> list[str]:
    """What is wrong with the values that are there, one sentence each; empty if nothing is."""
    sentences = []
    for key, types in schema.items():
        if key in entry and not isinstance(entry[key], types):
            allowed = " or ".join(t.__name__ for t in types)
            sentences.append(f"{key} is {entry[key]!r}, which must be {allowed}")
    if sentences:
        return sentences
    if schema is CATEGORY and entry.get("isthing", 0) not in (0, 1):
        sentences.append(
            f"isthing is {entry['isthing']!r}, which must be 1 for things (countable) or 0 for "
            "stuff"
        )
    if schema is CATEGORY and entry.get("color") is not None and not _is_color(entry["color"]):
        sentences.append(
            f"color is {entry['color']!r}, which must be [red, green, blue] with integers from 0 "
            "to 255, or be left out (colours are then generated)"
        )
    if schema is SEGMENT and "id" in entry and not 1 <= entry["id"] <= LARGEST_SEGMENT_ID:
        sentences.append(
            f"id is {entry['id']}, which must lie in 1 … {LARGEST_SEGMENT_ID}: 24 bits, and 0 is "
            "for unlabelled pixels"
        )
    return sentences


def sound_entries(entries: list[Any], schema: Schema) -> list[dict[str, Any]]:
    """The entries that are objects with all keys and valid values."""
    return [
        entry
        for entry in entries
        if isinstance(entry, dict)
        and not missing_keys(entry, schema)
        and not invalid_values(entry, schema)
    ]


def _is_color(color: Any) -> bool:
    return (
        isinstance(color, (list, tuple))
        and len(color) == 3
        and all(isinstance(x, int) and 0 <= x <= 255 for x in color)
    )
