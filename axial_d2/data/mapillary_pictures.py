"""Prepares one picture of Mapillary Vistas: ground truth converted, scaled and derived."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from axial_d2.data.annotations import instance_annotations, segment_info, semantic_map
from axial_d2.data.categories import contiguous_ids
from axial_d2.data.derived import semantic_file_name
from axial_d2.data.mapillary import IGNORE_LABEL
from axial_d2.data.mapillary_labels import Label, category_ids, label_categories
from axial_d2.data.mapillary_layout import MapillarySplit
from axial_d2.data.reading import DatasetError, read_image, read_panoptic_png
from panopticapi.utils import id2rgb
from PIL import Image

Array = np.ndarray
Segment = dict[str, Any]

_LABEL_FACTOR = 256  # in ``instances`` PNGs, a pixel is label · 256 + instance
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Recipe:
    """How the pictures of one split are prepared.

    Attributes:
        source: split to read.
        target: split to write; equal to ``source`` unless pictures are scaled.
        labels: of the label file.
        from_instances: whether segments come from ``instances`` PNGs, else from panoptic ones.
        max_side: longest side of a picture in pixels; larger ones are scaled down. None: as is.
    """

    source: MapillarySplit
    target: MapillarySplit
    labels: tuple[Label, ...]
    from_instances: bool
    max_side: int | None

    @property
    def writes_panoptic(self) -> bool:
        """Whether the released panoptic files do not serve as they are."""
        return self.from_instances or self.max_side is not None

    @cached_property
    def categories(self) -> list[dict[str, Any]]:
        return label_categories(self.labels)

    @cached_property
    def thing_ids(self) -> set[int]:
        return {c["id"] for c in self.categories if c["isthing"]}

    @cached_property
    def category_ids(self) -> dict[int, int]:
        return category_ids(self.labels)

    @property
    def ground_truth_root(self) -> Path:
        return self.source.instances if self.from_instances else self.source.panoptic_root


@dataclass(frozen=True)
class Picture:
    """One picture to prepare.

    Attributes:
        image: its entry of ``images``; without ``height`` and ``width`` where it comes from
            ``instances``.
        png: name of its ground-truth PNG.
        segments: its ``segments_info``; empty where it comes from ``instances``.
    """

    image: dict[str, Any]
    png: str
    segments: tuple[Segment, ...] = ()


def read_instance_png(path: Path) -> Array:
    """Reads an ``instances`` PNG.

    Returns:
        int32 ``[H, W]``, label · 256 + instance of each pixel.

    Raises:
        DatasetError: the file cannot be decoded or is not grey with 16 bits.
    """
    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error … on damage.
    except Exception as error:
        raise DatasetError(
            f"Instance PNG {path} cannot be decoded ({type(error).__name__}: {error}). Unpack the "
            "file from the release again."
        ) from error
    if not mode.startswith("I"):
        raise DatasetError(
            f"Instance PNG {path} has mode {mode}; it must be grey with 16 bits, label · 256 + "
            "instance. Unpack the file from the release again."
        )
    return pixels.astype(np.int32)


def segments_from_instances(
    values: Array, category_ids: Mapping[int, int], thing_ids: set[int]
) -> tuple[Array, list[Segment]]:
    """Panoptic ground truth from an ``instances`` PNG.

    Args:
        values: int32 ``[H, W]``, label · 256 + instance.
        category_ids: from label to category id; labels that it lacks are void.
        thing_ids: category ids of things, whose instances are segments of their own.

    Returns:
        Segment ids, int32 ``[H, W]`` with 0 for void, and ``segments_info``. None is a crowd: the
        PNGs do not mark any.
    """
    found, inverse = np.unique(values, return_inverse=True)
    ids, categories = np.zeros(len(found), np.int32), {}
    for index, value in enumerate(found.tolist()):
        label = value // _LABEL_FACTOR
        category_id = category_ids.get(label)
        if category_id is not None:
            of_its_own = category_id in thing_ids
            # 0 is void, so ids are one more than the values.
            ids[index] = 1 + (value if of_its_own else label * _LABEL_FACTOR)
            categories[int(ids[index])] = category_id
    id_map = ids[inverse].reshape(values.shape)
    return id_map, [segment_info(id_map, id_, category) for id_, category in categories.items()]


def scaled_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Height and width with the longer side at most ``max_side``; never larger than given."""
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return height, width
    scale = max_side / longest
    return max(1, round(height * scale)), max(1, round(width * scale))


def scale_segments(
    id_map: Array, segments: list[Segment], size: tuple[int, int]
) -> tuple[Array, list[Segment]]:
    """Ground truth at another size: ids by nearest neighbour, areas and boxes measured again.

    Args:
        id_map: int32 ``[H, W]``.
        segments: ``segments_info``.
        size: new height and width.

    Returns:
        The scaled map, and the segments that still have a pixel.
    """
    height, width = size
    nearest = Image.fromarray(id_map).resize((width, height), Image.Resampling.NEAREST)
    scaled = np.asarray(nearest, dtype=np.int32)
    present = set(np.unique(scaled).tolist())
    return scaled, [
        {**segment_info(scaled, s["id"], s["category_id"]), "iscrowd": s["iscrowd"]}
        for s in segments
        if s["id"] in present
    ]


def _write(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), pixels, options):
        raise OSError(f"Cannot write {path}.")


def _ground_truth(recipe: Recipe, picture: Picture) -> tuple[Array, list[Segment]]:
    path = recipe.ground_truth_root / picture.png
    if not recipe.from_instances:
        return read_panoptic_png(str(path)), list(picture.segments)
    values = read_instance_png(path)
    largest = int(values.max()) // _LABEL_FACTOR
    if largest >= len(recipe.labels):
        raise DatasetError(
            f"Instance PNG {path} has label {largest}, but {recipe.source.label_file} has labels "
            f"0 to {len(recipe.labels) - 1}. Take both from one version of the release."
        )
    return segments_from_instances(values, recipe.category_ids, recipe.thing_ids)


def _write_image(recipe: Recipe, picture: Picture, size: tuple[int, int]) -> None:
    """The scaled picture, the file itself where it is small enough."""
    name = picture.image["file_name"]
    source, target = recipe.source.images / name, recipe.target.images / name
    image = read_image(str(source), "BGR")
    _require_size(source, image.shape[:2], (picture.image["height"], picture.image["width"]))
    if image.shape[:2] == size:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    else:
        _write(target, cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))


def _require_size(path: Path, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise DatasetError(
            f"{path} is {found[0]} × {found[1]} (height × width), but the picture should be "
            f"{expected[0]} × {expected[1]}. Unpack its files from the release again."
        )


def prepare_picture(recipe: Recipe, picture: Picture) -> dict[str, Any]:
    """Writes all files of one picture.

    Returns:
        ``image`` and ``annotation``, its entries of a panoptic JSON; ``instances``, its COCO
        annotations without ``id``; ``vanished``, the segments that scaling left without a pixel.

    Raises:
        DatasetError: a file is missing, damaged, or contradicts another.
        OSError: a file cannot be written.
    """
    id_map, segments = _ground_truth(recipe, picture)
    height, width = id_map.shape
    image = {**picture.image}
    expected = (image.setdefault("height", height), image.setdefault("width", width))
    _require_size(recipe.ground_truth_root / picture.png, (height, width), expected)
    size, before = scaled_size(height, width, recipe.max_side), len(segments)
    if recipe.max_side is not None:
        _write_image(recipe, Picture(image, picture.png), size)
        if size != id_map.shape:
            id_map, segments = scale_segments(id_map, segments, size)
    prepared = recipe.target.prepared
    if recipe.writes_panoptic:
        colors = np.ascontiguousarray(id2rgb(id_map)[..., ::-1])
        _write(prepared.panoptic_root / picture.png, colors)
    semantic = semantic_map(id_map, segments, contiguous_ids(recipe.categories), IGNORE_LABEL)
    _write(Path(semantic_file_name(str(prepared.semantic_root), picture.png)), semantic)
    entry = {"image_id": image["id"], "file_name": picture.png, "segments_info": segments}
    return {
        "image": {**image, "height": size[0], "width": size[1]},
        "annotation": entry,
        "instances": instance_annotations(id_map, segments, recipe.thing_ids),
        "vanished": before - len(segments),
    }
