"""COCO annotations of one picture from its map of segment ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

Array = np.ndarray


def bounding_box(mask: Array) -> list[int]:
    """Tight box ``[x, y, width, height]`` in pixels around the True pixels of ``[H, W]``.

    Returns:
        ``[0, 0, 0, 0]`` for an empty mask.
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return [x, y, width, height]


def segment_info(id_map: Array, segment_id: int, category_id: int) -> dict[str, Any]:
    """The ``segments_info`` entry of a segment that is not a crowd.

    Args:
        id_map: int ``[H, W]``, segment id of each pixel.
        segment_id: id in ``id_map``.
        category_id: id in the JSON's ``categories``.
    """
    mask = id_map == segment_id
    return {
        "id": int(segment_id),
        "category_id": int(category_id),
        "area": int(np.count_nonzero(mask)),
        "bbox": bounding_box(mask),
        "iscrowd": 0,
    }


def instance_annotations(
    id_map: Array, segments: Sequence[Mapping[str, Any]], thing_ids: set[int]
) -> list[dict[str, Any]]:
    """COCO instance annotations of the thing segments, with run-length masks.

    Args:
        id_map: int ``[H, W]``, segment id of each pixel.
        segments: ``segments_info`` of a COCO-panoptic annotation.
        thing_ids: category ids of things.

    Returns:
        One dict a thing, in the order given, with ``category_id, iscrowd, area, bbox`` and
        ``segmentation``; box and area are measured on the map. Segments without a pixel are
        left out. ``id`` and ``image_id`` are the caller's to add.
    """
    annotations = []
    for segment in segments:
        if segment["category_id"] not in thing_ids:
            continue
        mask = id_map == segment["id"]
        area = int(np.count_nonzero(mask))
        if area == 0:
            continue
        rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        annotations.append(
            {
                "category_id": int(segment["category_id"]),
                "iscrowd": int(segment["iscrowd"]),
                "area": area,
                "bbox": bounding_box(mask),
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
            }
        )
    return annotations


def semantic_map(
    id_map: Array,
    segments: Sequence[Mapping[str, Any]],
    contiguous_ids: Mapping[int, int],
    ignore_label: int,
) -> Array:
    """Contiguous class id of each pixel, ``ignore_label`` where it belongs to no segment.

    Args:
        id_map: int ``[H, W]``, segment id of each pixel.
        segments: ``segments_info`` of a COCO-panoptic annotation.
        contiguous_ids: from category id to class id.
        ignore_label: at most 255 gives uint8, more uint16.

    Returns:
        uint8 or uint16 ``[H, W]``.
    """
    dtype = np.uint8 if max(ignore_label, *contiguous_ids.values()) <= 255 else np.uint16
    ids, inverse = np.unique(id_map, return_inverse=True)
    classes = {s["id"]: contiguous_ids[s["category_id"]] for s in segments}
    table = np.array([classes.get(int(i), ignore_label) for i in ids], dtype)
    return table[inverse].reshape(id_map.shape)
