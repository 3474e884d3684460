"""Instances and semantic ground truth derived from panoptic PNGs, made once and kept.

They lie in a folder beside the panoptic JSON, ``panoptic_val.json`` → ``panoptic_val.derived/``,
or, where that place cannot be written, in iopath's cache (``$FVCORE_CACHE``, by default
``~/.torch/iopath_cache/axial_d2``). The folder holds ``instances.json``, ``semantic/`` with one PNG
a picture, and ``made_from.json``, a fingerprint of all that it was made from: another fingerprint,
because the JSON or a PNG was edited, means that it is made again. It is built under another name
and renamed when complete, under a file lock, so that processes may race and none sees half of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from axial_d2.data.annotations import instance_annotations, semantic_map
from axial_d2.data.categories import contiguous_ids
from axial_d2.data.panoptic_json import PanopticJson, read_panoptic_json
from axial_d2.data.reading import DatasetError, read_panoptic_png
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import file_lock, get_cache_dir
from tqdm import tqdm

_LAYOUT_VERSION = 1
_FINGERPRINT = "made_from.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DerivedFiles:
    """Where the derived ground truth of a data set lies.

    Attributes:
        folder: holds all of it.
    """

    folder: Path

    @property
    def instances_json(self) -> str:
        return str(self.folder / "instances.json")

    @property
    def semantic_root(self) -> str:
        return str(self.folder / "semantic")


def semantic_file_name(root: str, panoptic_file_name: str) -> str:
    """Semantic PNG of a picture: the panoptic PNG's own relative name under ``root``."""
    return os.path.join(root, os.path.splitext(panoptic_file_name)[0] + ".png")


def _candidates(panoptic_json: str) -> list[Path]:
    """Folders that may hold the derived files, the preferred one first."""
    path = Path(PathManager.get_local_path(panoptic_json)).absolute()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    cache = Path(get_cache_dir()) / "axial_d2"
    return [path.with_suffix(".derived"), cache / f"{path.stem}-{digest}.derived"]


def _fingerprint(source: PanopticJson, panoptic_root: str, ignore_label: int) -> dict[str, Any]:
    def state(path: str) -> str:
        try:
            stat = os.stat(PathManager.get_local_path(path))
        except OSError:
            return "missing"
        return f"{stat.st_mtime_ns} {stat.st_size}"

    digest = hashlib.sha256()
    for annotation in source.annotations:
        path = os.path.join(panoptic_root, annotation["file_name"])
        digest.update(f"{annotation['file_name']} {state(path)}\n".encode())
    return {
        "version": _LAYOUT_VERSION,
        "panoptic_json": state(source.path),
        "panoptic_root": panoptic_root,
        "panoptic_pngs": digest.hexdigest(),
        "ignore_label": ignore_label,
    }


def _is_current(folder: Path, fingerprint: dict[str, Any]) -> bool:
    try:
        return json.loads((folder / _FINGERPRINT).read_text(encoding="utf-8")) == fingerprint
    except (OSError, ValueError):
        return False


def _read_labels(
    source: PanopticJson, panoptic_root: str, annotation: dict[str, Any]
) -> np.ndarray:
    path = os.path.join(panoptic_root, annotation["file_name"])
    id_map = read_panoptic_png(path)
    image = source.images[annotation["image_id"]]
    if id_map.shape != (image["height"], image["width"]):
        raise DatasetError(
            f"Panoptic PNG {path} is {id_map.shape[0]} × {id_map.shape[1]} (height × width), but "
            f"{source.path} gives {image['height']} × {image['width']} for image id "
            f"{image['id']!r}. Correct the JSON or replace the PNG."
        )
    return id_map


def _derive_image(
    source: PanopticJson,
    panoptic_root: str,
    ignore_label: int,
    semantic_root: str,
    annotation: dict[str, Any],
) -> list[dict[str, Any]]:
    """Writes one semantic PNG and returns the picture's instance annotations."""
    id_map = _read_labels(source, panoptic_root, annotation)
    segments = annotation["segments_info"]
    absent = {s["id"] for s in segments} - set(np.unique(id_map).tolist())
    if absent:
        logger.warning(
            "%s lists segments %s, which %s lacks; tools/check_dataset.py reports all such "
            "defects.",
            source.path,
            sorted(absent),
            annotation["file_name"],
        )
    semantic = semantic_map(id_map, segments, contiguous_ids(source.categories), ignore_label)
    path = semantic_file_name(semantic_root, annotation["file_name"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not cv2.imwrite(path, semantic):
        raise OSError(f"Cannot write {path}.")
    return instance_annotations(id_map, segments, source.thing_ids)


def _number(
    annotations: list[dict[str, Any]], instances: Iterator[list[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    number = 0
    for annotation, of_image in zip(annotations, instances, strict=True):
        for instance in of_image:
            number += 1
            yield {"id": number, "image_id": annotation["image_id"], **instance}


def _build(source: PanopticJson, panoptic_root: str, ignore_label: int, folder: Path) -> None:
    semantic_root = str(folder / "semantic")
    os.makedirs(semantic_root)

    def derive(annotation: dict[str, Any]) -> list[dict[str, Any]]:
        return _derive_image(source, panoptic_root, ignore_label, semantic_root, annotation)

    name = f"deriving ground truth of {os.path.basename(source.path)}"
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(derive, source.annotations)
        bar = tqdm(results, total=len(source.annotations), desc=name, unit="image")
        instances = list(_number(source.annotations, iter(bar)))
    data = {
        "info": {"description": f"derived from {source.path}"},
        "images": [source.images[a["image_id"]] for a in source.annotations],
        "annotations": instances,
        "categories": [c for c in source.categories if c["isthing"]],
    }
    (folder / "instances.json").write_text(json.dumps(data), encoding="utf-8")


def _publish(temporary: Path, folder: Path) -> None:
    """Renames a complete folder into place; an older one is moved out of the way first."""
    if folder.exists():
        outdated = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        os.rename(folder, outdated / folder.name)
        os.rename(temporary, folder)
        shutil.rmtree(outdated, ignore_errors=True)
    else:
        os.rename(temporary, folder)


def ensure_derived(
    panoptic_json: str,
    panoptic_root: str,
    ignore_label: int = 255,
    source: PanopticJson | None = None,
) -> DerivedFiles:
    """Derives instances and semantic ground truth, unless current ones are there.

    Args:
        panoptic_json: path of the COCO-panoptic JSON.
        panoptic_root: folder of its PNGs.
        ignore_label: semantic label of pixels that belong to no segment.
        source: the JSON, where it has been read already.

    Returns:
        Where the files lie.

    Raises:
        DatasetError: a PNG is missing, damaged or of another size than the JSON says.
        OSError: neither place can be written.
    """
    source = source or read_panoptic_json(panoptic_json)
    fingerprint = _fingerprint(source, panoptic_root, ignore_label)
    candidates = _candidates(panoptic_json)
    for folder in candidates:
        if _is_current(folder, fingerprint):
            return DerivedFiles(folder)
    beside, cache = candidates
    folder = beside if os.access(beside.parent, os.W_OK) else cache
    with file_lock(str(folder)):
        if not _is_current(folder, fingerprint):  # another process may have been faster
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-new-", dir=folder.parent))
            try:
                _build(source, panoptic_root, ignore_label, temporary)
                text = json.dumps(fingerprint, indent=2)
                (temporary / _FINGERPRINT).write_text(text + "\n", encoding="utf-8")
                _publish(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return DerivedFiles(folder)
