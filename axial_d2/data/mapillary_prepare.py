"""Prepares Mapillary Vistas for training: conversion, scaled copies, derived ground truth.

Every finished picture is one line of ``prepared/records.jsonl``; a run that was stopped goes on
with the pictures that have none. At the end the lines become the JSON files.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from axial_d2.data.mapillary_check import check_mapillary_split, file_names, uses_instances
from axial_d2.data.mapillary_labels import read_label_file
from axial_d2.data.mapillary_layout import MapillarySplit
from axial_d2.data.mapillary_pictures import Picture, Recipe, prepare_picture
from axial_d2.data.panoptic_json import PanopticJson, read_panoptic_json
from axial_d2.data.problems import Problem, ProblemKind
from axial_d2.data.reading import DatasetError
from iopath.common.file_io import file_lock
from tqdm import tqdm

Record = dict[str, Any]
_FORMAT = 1  # raised by whoever changes what the same options write


class IncompleteReleaseError(DatasetError):
    """A release that lacks files.

    Attributes:
        problems: everything that is wrong.
    """

    def __init__(self, problems: Sequence[Problem]):
        first = problems[0]
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        super().__init__(f"{first.file}: {first.message}{more}.")
        self.problems = list(problems)


@dataclass(frozen=True)
class PreparedSplit:
    """What preparing a split came to.

    Attributes:
        paths: the split to register; its ``prepared`` folder is finished.
        pictures: how many it has.
        resumed: how many of them an earlier run had finished.
        vanished: segments that scaling left without a pixel, which are no longer listed.
    """

    paths: MapillarySplit
    pictures: int
    resumed: int
    vanished: int


def _pictures(recipe: Recipe, source: PanopticJson | None) -> list[Picture]:
    if source is None:
        stems = sorted(n.removesuffix(".jpg") for n in file_names(recipe.source.images, ".jpg"))
        return [Picture({"id": s, "file_name": f"{s}.jpg"}, f"{s}.png") for s in stems]
    return [
        Picture(source.images[a["image_id"]], a["file_name"], tuple(a["segments_info"]))
        for a in source.annotations
    ]


def _replace(path: Path, data: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(data), encoding="utf-8")
    os.replace(temporary, path)


def _options(recipe: Recipe, pictures: int) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": recipe.source.version,
        "pictures": pictures,
        "from_instances": recipe.from_instances,
        "max_side": recipe.max_side,
    }


def _refuse_foreign_files(recipe: Recipe) -> None:
    """Before a fresh start: nothing of what is about to be written may be there."""
    scaled = recipe.max_side is not None
    for folder in [recipe.target.prepared.path] + ([recipe.target.images] if scaled else []):
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(
                f"{folder} holds files that no run of this preparation has begun. Choose another "
                "output folder, or move or delete them."
            )


def _begin(recipe: Recipe, pictures: int) -> bool:
    """Starts or resumes a preparation; returns whether it is finished already.

    Raises:
        FileExistsError: the folder holds something else.
    """
    prepared, options = recipe.target.prepared, _options(recipe, pictures)
    if prepared.manifest.is_file():
        manifest = json.loads(prepared.manifest.read_text(encoding="utf-8"))
        finished = manifest.pop("finished")
        if manifest != options:
            raise FileExistsError(
                f"{prepared.path} was prepared with {manifest}, and this run has {options}. Give "
                "the same options, choose another output folder, or delete that folder"
                + (f" and {recipe.target.images}." if manifest.get("max_side") else ".")
            )
        return finished
    _refuse_foreign_files(recipe)
    prepared.path.mkdir(parents=True, exist_ok=True)
    _replace(prepared.manifest, {**options, "finished": False})
    return False


def _read_records(path: Path) -> dict[str, Record]:
    """Finished pictures by PNG name; a last line that was cut off is removed from the file."""
    records: dict[str, Record] = {}
    if not path.is_file():
        return records
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), encoding="utf-8")
        lines.pop()
    for line in lines:
        record = json.loads(line)
        records[record["annotation"]["file_name"]] = record
    return records


@contextmanager
def _mapper(workers: int) -> Iterator[Any]:
    """``imap_unordered`` over so many processes; none for one worker."""
    if workers == 1:
        yield map
        return
    # One thread a process: OpenCV would start one a processor in each.
    # Not forked: OpenCV's and PyTorch's threads leave locks behind that a fork never gets.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, cv2.setNumThreads, (1,)) as pool:
        yield pool.imap_unordered


def _prepare_pictures(
    recipe: Recipe, pictures: list[Picture], workers: int, progress: bool
) -> tuple[list[Record], int]:
    """All records in the pictures' order, and how many an earlier run had made."""
    path = recipe.target.prepared.records
    records = _read_records(path)
    resumed = len(records)
    remaining = [picture for picture in pictures if picture.png not in records]
    bar = tqdm(
        desc=f"preparing {recipe.source.split}",
        unit="image",
        total=len(pictures),
        initial=resumed,
        disable=not progress,
    )
    with path.open("a", encoding="utf-8") as file, _mapper(workers) as mapper, bar:
        for record in mapper(partial(prepare_picture, recipe), remaining):
            file.write(json.dumps(record) + "\n")
            file.flush()
            records[record["annotation"]["file_name"]] = record
            bar.update()
    return [records[picture.png] for picture in pictures], resumed


def _finish(recipe: Recipe, records: list[Record]) -> None:
    prepared = recipe.target.prepared
    images = [record["image"] for record in records]
    info = {"description": f"Mapillary Vistas {recipe.source.version}, prepared by axial_d2"}
    if recipe.writes_panoptic:
        annotations = [record["annotation"] for record in records]
        panoptic = {"info": info, "images": images, "annotations": annotations}
        _replace(prepared.panoptic_json, {**panoptic, "categories": recipe.categories})
    of_all = ((r["image"]["id"], i) for r in records for i in r["instances"])
    instances = [
        {"id": number, "image_id": image_id, **instance}
        for number, (image_id, instance) in enumerate(of_all, start=1)
    ]
    things = [c for c in recipe.categories if c["isthing"]]
    coco = {"info": info, "images": images, "annotations": instances, "categories": things}
    _replace(prepared.instances_json, coco)
    _replace(prepared.manifest, {**_options(recipe, len(records)), "finished": True})
    # Last, so that stopping here leaves a finished preparation.
    prepared.records.unlink()


def _copy_label_file(recipe: Recipe) -> None:
    source = recipe.source.label_file
    target = recipe.target.root / source.name
    if target.is_file() and target.read_bytes() != source.read_bytes():
        raise FileExistsError(
            f"{target} is not the label file {source}. Choose another output folder."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _check_output(source: MapillarySplit, output: Path | None, max_side: int | None) -> None:
    if max_side is not None and max_side < 1:
        raise ValueError(f"max_side is {max_side}; it must be at least 1 pixel.")
    if (output is None) != (max_side is None):
        raise ValueError(
            "output and max_side belong together: scaled copies go to a folder of their own, and "
            f"without scaling everything goes to {source.prepared.path}. Give both or neither."
        )
    if output is not None and output.expanduser().absolute() == source.root:
        raise ValueError(
            f"output is the release itself, {source.root}; scaled copies must go elsewhere."
        )


def _complete_source(source: MapillarySplit) -> PanopticJson | None:
    """The panoptic JSON of a complete split; None where ``instances`` are the ground truth."""
    panoptic = None
    if not uses_instances(source) and source.label_file.is_file():
        panoptic = read_panoptic_json(str(source.panoptic_json))
    problems = [
        problem
        for problem in check_mapillary_split(source, panoptic)
        if problem.kind is not ProblemKind.IMAGE_WITHOUT_ANNOTATION  # such pictures are left out
    ]
    if problems:
        raise IncompleteReleaseError(problems)
    return panoptic


def prepare_mapillary_split(
    root: str | os.PathLike,
    version: str = "v1.2",
    split: str = "train",
    *,
    output: str | os.PathLike | None = None,
    max_side: int | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> PreparedSplit:
    """Writes what one split of a release lacks; goes on where an earlier run was stopped.

    Semantic maps and instance annotations always; panoptic PNGs and JSON where the release has
    ``instances`` alone, or where pictures are scaled. Released files are left as they are. See
    :mod:`axial_d2.data.mapillary_layout` for the folder.

    Args:
        root: folder of the release.
        version: "v1.2" or "v2.0".
        split: "train" or "val".
        output: folder of the scaled copies, in the layout of a release; with ``max_side`` alone.
        max_side: longest side of the scaled copies in pixels, at least 1; pictures are averaged
            over areas, ids taken from the nearest neighbour, areas and boxes measured again.
            Smaller pictures are copied. The paper trains and evaluates at 2177.
        workers: processes; by default one a processor.
        progress: shows a progress bar.

    Raises:
        IncompleteReleaseError: files are missing.
        DatasetError: a file is damaged or contradicts another. What is done is kept.
        FileExistsError: the files to write are there, but from other options or another program.
        ValueError: an argument is out of range.
    """
    source = MapillarySplit.of(root, version, split)
    _check_output(source, None if output is None else Path(output), max_side)
    target = source if output is None else MapillarySplit.of(output, version, split)
    panoptic = _complete_source(source)
    labels = tuple(read_label_file(source.label_file))
    recipe = Recipe(source, target, labels, panoptic is None, max_side)
    pictures = _pictures(recipe, panoptic)
    if output is not None:
        _copy_label_file(recipe)
    with file_lock(str(target.prepared.path)):
        if _begin(recipe, len(pictures)):
            return PreparedSplit(target, len(pictures), len(pictures), 0)
        processes = workers or os.cpu_count() or 1
        records, resumed = _prepare_pictures(recipe, pictures, processes, progress)
        _finish(recipe, records)
    vanished = sum(record["vanished"] for record in records)
    return PreparedSplit(target, len(pictures), resumed, vanished)
