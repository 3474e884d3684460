"""Compares one picture and its panoptic PNG with what the JSON says about them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from axial_d2.data import schema
from axial_d2.data.annotations import bounding_box
from axial_d2.data.problems import Problem, ProblemKind
from axial_d2.data.reading import DatasetError, MissingFileError, read_image, read_panoptic_png

_BOX_TOLERANCE = 1  # pixels; converters disagree on whether the last pixel counts


def _check_size(
    kind: ProblemKind, path: str, array: np.ndarray, image: dict[str, Any]
) -> Iterator[Problem]:
    if array.shape[:2] != (image["height"], image["width"]):
        message = f"is {array.shape[0]} × {array.shape[1]} (height × width), but the JSON says "
        message += f"{image['height']} × {image['width']}"
        yield Problem(kind, path, message)


def _check_image(path: str, image: dict[str, Any]) -> Iterator[Problem]:
    try:
        picture = read_image(path, "RGB")
    except MissingFileError as error:
        yield Problem(ProblemKind.MISSING_IMAGE, path, str(error))
    except DatasetError as error:
        yield Problem(ProblemKind.DAMAGED_IMAGE, path, str(error))
    else:
        yield from _check_size(ProblemKind.IMAGE_SIZE, path, picture, image)


def _check_box(path: str, segment: dict[str, Any], mask: np.ndarray) -> Iterator[Problem]:
    box, actual = segment["bbox"], bounding_box(mask)
    if len(box) != 4 or np.abs(np.subtract(box, actual)).max() > _BOX_TOLERANCE:
        message = f"segment {segment['id']} has bbox {box} in the JSON, {actual} in the PNG"
        yield Problem(ProblemKind.BBOX, path, message)


def _check_segments(path: str, id_map: np.ndarray, segments: list[Any]) -> Iterator[Problem]:
    ids, counts = np.unique(id_map, return_counts=True)
    areas = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    for segment in schema.sound_entries(segments, schema.SEGMENT):
        id_ = segment["id"]
        if id_ not in areas:
            message = f"has no pixel of segment {id_}, which the JSON lists"
            yield Problem(ProblemKind.SEGMENT_NOT_IN_PNG, path, message)
            continue
        if segment["area"] != areas[id_]:
            message = f"segment {id_} has area {segment['area']} in the JSON, {areas[id_]} in the "
            yield Problem(ProblemKind.AREA, path, message + "PNG")
        yield from _check_box(path, segment, id_map == id_)
    listed = {s.get("id") for s in segments if isinstance(s, dict)}
    for id_ in sorted(set(areas) - listed - {0}):
        message = f"has {areas[id_]} pixels of segment {id_}, which the JSON does not list"
        yield Problem(ProblemKind.SEGMENT_NOT_IN_JSON, path, message)


def _check_png(path: str, image: dict[str, Any], annotation: dict[str, Any]) -> Iterator[Problem]:
    try:
        id_map = read_panoptic_png(path)
    except MissingFileError as error:
        yield Problem(ProblemKind.MISSING_PNG, path, str(error))
        return
    except DatasetError as error:
        yield Problem(ProblemKind.DAMAGED_PNG, path, str(error))
        return
    yield from _check_size(ProblemKind.PNG_SIZE, path, id_map, image)
    yield from _check_segments(path, id_map, annotation["segments_info"])


def check_files(
    image_root: str, panoptic_root: str, image: dict[str, Any], annotation: dict[str, Any] | None
) -> list[Problem]:
    """Checks the files of one picture.

    Args:
        image_root: folder of the pictures.
        panoptic_root: folder of the panoptic PNGs.
        image: sound entry of ``images``.
        annotation: its sound entry of ``annotations``; None where it has none.

    Returns:
        The defects found.
    """
    problems = list(_check_image(os.path.join(image_root, image["file_name"]), image))
    if annotation is not None:
        path = os.path.join(panoptic_root, annotation["file_name"])
        problems += _check_png(path, image, annotation)
    return problems
