"""Checks that a Mapillary Vistas folder is complete, without opening a picture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from axial_d2.data.mapillary_labels import check_categories, read_label_file
from axial_d2.data.mapillary_layout import MapillarySplit
from axial_d2.data.panoptic_json import PanopticJson, read_panoptic_json
from axial_d2.data.problems import Problem, ProblemKind
from axial_d2.data.reading import DatasetError


def file_names(folder: Path, suffix: str) -> set[str]:
    """Names of the folder's files with this suffix; none where there is no folder."""
    if not folder.is_dir():
        return set()
    return {entry.name for entry in os.scandir(folder) if entry.name.endswith(suffix)}


def uses_instances(paths: MapillarySplit) -> bool:
    """Whether ground truth has to come from ``instances``: there is no panoptic JSON."""
    return not paths.panoptic_json.is_file()


def _absent(
    kind: ProblemKind, folder: Path, expected: set[str], found: set[str], why: str
) -> Iterator[Problem]:
    for name in sorted(expected - found):
        yield Problem(kind, str(folder / name), f"does not exist, though {why}")


def _check_panoptic(paths: MapillarySplit, source: PanopticJson) -> Iterator[Problem]:
    images = {image["file_name"] for image in source.images.values()}
    annotated = {annotation["image_id"] for annotation in source.annotations}
    pngs = {annotation["file_name"] for annotation in source.annotations}
    on_disk, why = file_names(paths.images, ".jpg"), f"{paths.panoptic_json} lists it"
    yield from _absent(ProblemKind.MISSING_IMAGE, paths.images, images, on_disk, why)
    found = file_names(paths.panoptic_root, ".png")
    yield from _absent(ProblemKind.MISSING_PNG, paths.panoptic_root, pngs, found, why)
    unlisted = {image["file_name"] for id_, image in source.images.items() if id_ not in annotated}
    for name in sorted(unlisted | (on_disk - images)):
        message = f"has no annotation in {paths.panoptic_json}"
        yield Problem(ProblemKind.IMAGE_WITHOUT_ANNOTATION, str(paths.images / name), message)


def _check_instances(paths: MapillarySplit) -> Iterator[Problem]:
    images = {name.removesuffix(".jpg") for name in file_names(paths.images, ".jpg")}
    pngs = {name.removesuffix(".png") for name in file_names(paths.instances, ".png")}
    for stem in sorted(pngs - images):
        path, message = paths.images / f"{stem}.jpg", f"does not exist, though {paths.instances} "
        yield Problem(ProblemKind.MISSING_IMAGE, str(path), f"{message}has its ground truth")
    for stem in sorted(images - pngs):
        path, message = paths.instances / f"{stem}.png", f"does not exist, though {paths.images} "
        yield Problem(ProblemKind.MISSING_PNG, str(path), f"{message}has its picture")


def _without_json(paths: MapillarySplit) -> Problem | None:
    """What keeps ``instances`` from being the ground truth."""
    if file_names(paths.panoptic_root, ".png"):
        message = f"does not exist, though {paths.panoptic_root} holds panoptic PNGs. Unpack it "
        message += f"from the release, or remove that folder to convert {paths.instances} instead"
        return Problem(ProblemKind.MALFORMED_JSON, str(paths.panoptic_json), message)
    if not file_names(paths.instances, ".png"):
        message = f"holds neither {paths.panoptic_json.relative_to(paths.annotations)} nor PNGs in "
        message += "instances: there is no ground truth. Unpack the release again"
        return Problem(ProblemKind.EMPTY_DATASET, str(paths.annotations), message)
    return None


def check_mapillary_split(
    paths: MapillarySplit, source: PanopticJson | None = None
) -> list[Problem]:
    """Finds what a split lacks to be prepared or registered.

    Args:
        paths: the split.
        source: its panoptic JSON, where it has been read already.

    Returns:
        Missing files, pictures without ground truth, a label file or panoptic JSON that is
        malformed or of another version; none for a complete split.
    """
    label_file = str(paths.label_file)
    try:
        read_label_file(paths.require_label_file())
    except (DatasetError, FileNotFoundError) as error:
        return [Problem(ProblemKind.MALFORMED_JSON, label_file, str(error))]
    if not file_names(paths.images, ".jpg"):
        message = "holds no .jpg. Unpack the images of the release there"
        return [Problem(ProblemKind.EMPTY_DATASET, str(paths.images), message)]
    if uses_instances(paths):
        problem = _without_json(paths)
        return [problem] if problem else list(_check_instances(paths))
    try:
        source = source or read_panoptic_json(str(paths.panoptic_json))
        check_categories(paths.panoptic_json, source.categories, label_file)
    except DatasetError as error:
        return [Problem(ProblemKind.MALFORMED_JSON, str(paths.panoptic_json), str(error))]
    return list(_check_panoptic(paths, source))
