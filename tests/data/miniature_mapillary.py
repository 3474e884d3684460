"""A Mapillary Vistas release of four small pictures, in the layout of either version.

Everything is made by hand and by loops over pixels, from none of the functions under test.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from axial_d2.data import prepare_mapillary_split
from axial_d2.data.mapillary_prepare import PreparedSplit
from PIL import Image

# name, readable, instances, evaluate, color: two void labels lie among those that count.
LABELS = [
    ("animal--bird", "Bird", True, True, [165, 42, 42]),
    ("construction--barrier--ambiguous", "Ambiguous Barrier", False, False, [250, 170, 31]),
    ("nature--sky", "Sky", False, True, [70, 130, 180]),
    ("object--vehicle--car", "Car", True, True, [0, 0, 142]),
    ("object--sign--ambiguous", "Signage - Ambiguous", True, False, [250, 172, 30]),
    ("nature--terrain", "Terrain", False, True, [152, 251, 152]),
    ("void--unlabeled", "Unlabeled", False, False, [0, 0, 0]),
]
BIRD, BARRIER, SKY, CAR, SIGN, TERRAIN, UNLABELED = range(7)
# As the official panoptic JSONs number them: labels that count, from 1.
CATEGORY_IDS = {BIRD: 1, SKY: 2, CAR: 3, TERRAIN: 4}
CATEGORIES = [
    {
        "id": id_,
        "name": LABELS[label][1],
        "supercategory": LABELS[label][0],
        "isthing": int(LABELS[label][2]),
        "color": LABELS[label][4],
    }
    for label, id_ in CATEGORY_IDS.items()
]
FOLDERS = {"train": "training", "val": "validation"}
PANOPTIC_JSON = {"v1.2": "panoptic_2018.json", "v2.0": "panoptic_2020.json"}
# Image ids of Mapillary may begin with a dash.
PICTURES = {"train": ["--jRsD9a", "zQ_2"], "val": ["-0aB", "k9"]}
HEIGHT, WIDTH = 24, 40
# Contiguous class of each label: things first, then stuff; void labels are 255.
CLASSES = [0, 255, 2, 1, 255, 3, 255]
# Arguments of ``write_release``.
LAYOUTS: dict[str, dict[str, Any]] = {
    "v1.2": {"version": "v1.2"},
    "v1.2 alone": {"version": "v1.2", "nested": False},
    "v2.0": {"version": "v2.0"},
}


def draw(seed: int) -> np.ndarray:
    """int32 ``[24, 40]``, label · 256 + instance: sky over terrain, cars, a bird, three voids."""
    rng = np.random.default_rng(seed)
    values = np.full((HEIGHT, WIDTH), SKY * 256)
    values[14:] = TERRAIN * 256
    for instance in range(3):  # the first instance of a label is number 0
        left = 13 * instance + int(rng.integers(0, 4))
        values[12:19, left : left + 8] = CAR * 256 + instance
    values[2:5, 30:36] = BIRD * 256
    values[2:6, 2:9] = BARRIER * 256
    values[8:11, 4:8] = SIGN * 256 + 1
    values[22:, :6] = UNLABELED * 256
    return values.astype(np.int32)


@dataclass
class Release:
    """A release on disk, and what it was made from."""

    root: Path
    version: str
    nested: bool  # annotations under {split}/{version}
    values: dict[str, np.ndarray]  # of each picture, label · 256 + instance

    def split(self, name: str) -> Path:
        return self.root / FOLDERS[name]

    def annotations(self, split: str) -> Path:
        return self.split(split) / self.version if self.nested else self.split(split)

    def panoptic_json(self, split: str) -> Path:
        return self.annotations(split) / "panoptic" / PANOPTIC_JSON[self.version]

    def files(self) -> dict[str, bytes]:
        """Contents of all files, by name relative to the root."""
        paths = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in paths}


def write_label_file(path: Path) -> None:
    keys = ("name", "readable", "instances", "evaluate", "color")
    labels = [dict(zip(keys, values, strict=True)) for values in LABELS]
    data = {"labels": labels, "version": 1.1, "mapping": "public", "folder_structure": "…"}
    path.write_text(json.dumps(data), encoding="utf-8")


def _image(values: np.ndarray) -> np.ndarray:
    """Each segment in a colour of its own, so that JPEG changes it little."""
    return np.stack([(values * factor) % 200 + 20 for factor in (1, 3, 7)], -1).astype(np.uint8)


def hand_made_panoptic(
    values: np.ndarray, first_id: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Segment ids as unlike the instance PNGs as can be, and their ``segments_info``."""
    ids, segments = np.zeros(values.shape, np.int64), []
    for number, value in enumerate(np.unique(values).tolist()):
        label = value // 256
        if label not in CATEGORY_IDS:
            continue
        id_ = first_id + 70001 * number
        rows, columns = np.where(values == value)
        ids[rows, columns] = id_
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        segments.append(
            {
                "id": id_,
                "category_id": CATEGORY_IDS[label],
                "area": len(rows),
                "bbox": [int(x) for x in box],
                "iscrowd": 0,
            }
        )
    return ids, segments


def _write_panoptic(release: Release, split: str) -> None:
    folder = release.panoptic_json(split).parent
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number, stem in enumerate(PICTURES[split]):
        ids, segments = hand_made_panoptic(release.values[stem], 5 + number)
        channels = [ids % 256, ids // 256 % 256, ids // 65536]
        Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(folder / f"{stem}.png")
        images.append({"id": stem, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH})
        annotations.append(
            {"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments}
        )
    data = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    release.panoptic_json(split).write_text(json.dumps(data), encoding="utf-8")


def write_release(
    root: Path, version: str = "v1.2", *, nested: bool = True, panoptic: bool = True
) -> Release:
    """Writes a release; ``nested=False`` is v1.2 as it came before v2.0."""
    drawn = {
        stem: draw(seed)
        for seed, stem in enumerate(stem for stems in PICTURES.values() for stem in stems)
    }
    release = Release(root, version, nested, drawn)
    for split, stems in PICTURES.items():
        (release.split(split) / "images").mkdir(parents=True)
        (release.annotations(split) / "instances").mkdir(parents=True)
        for stem in stems:
            values = drawn[stem]
            image = Image.fromarray(_image(values))
            image.save(release.split(split) / "images" / f"{stem}.jpg", quality=95)
            png = release.annotations(split) / "instances" / f"{stem}.png"
            Image.fromarray(values.astype(np.uint16)).save(png)
        if panoptic:
            _write_panoptic(release, split)
    write_label_file(root / (f"config_{version}.json" if nested else "config.json"))
    return release


def prepare(release: Release, split: str = "train", **options: Any) -> PreparedSplit:
    """Prepares a split in this process, unless ``workers`` says otherwise."""
    options = {"workers": 1, **options}
    return prepare_mapillary_split(release.root, release.version, split, **options)


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
