"""Writes the demo data set as COCO-panoptic files, with instances and semantic ground truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from axial_d2.data.annotations import instance_annotations, segment_info, semantic_map
from axial_d2.data.categories import contiguous_ids
from axial_d2.data.synthetic.categories import CATEGORIES, CATEGORY_IDS
from axial_d2.data.synthetic.finished import finish, is_finished
from axial_d2.data.synthetic.scenes import Scene, Segment, draw_scene
from panopticapi.utils import id2rgb
from tqdm import tqdm

Array = np.ndarray

SPLITS = ("train", "val")
IGNORE_LABEL = 255
#: Names of the folders that a set may have.
ENTRIES = (*SPLITS, "annotations", *(f"{k}_{s}" for k in ("panoptic", "semantic") for s in SPLITS))
_THING_IDS = {c["id"] for c in CATEGORIES if c["isthing"]}
_CONTIGUOUS_IDS = contiguous_ids(CATEGORIES)


@dataclass(frozen=True)
class SplitPaths:
    """Where the files of one split lie under ``root``."""

    root: Path
    split: str

    @classmethod
    def of(cls, root: str | Path, split: str) -> SplitPaths:
        return cls(Path(root), split)

    @property
    def images(self) -> Path:
        return self.root / self.split

    @property
    def panoptic(self) -> Path:
        return self.root / f"panoptic_{self.split}"

    @property
    def semantic(self) -> Path:
        return self.root / f"semantic_{self.split}"

    @property
    def panoptic_json(self) -> Path:
        return self.root / "annotations" / f"panoptic_{self.split}.json"

    @property
    def instances_json(self) -> Path:
        return self.root / "annotations" / f"instances_{self.split}.json"


@dataclass(frozen=True)
class DemoArguments:
    """What determines the files of a demo data set, byte for byte."""

    seed: int
    num_train: int
    num_val: int
    image_scale: float
    varied_sizes: bool = False
    version: int = 2  # raised by whoever changes what the same arguments draw

    def count(self, split: str) -> int:
        return {"train": self.num_train, "val": self.num_val}[split]

    def manifest(self) -> dict[str, Any]:
        """As the data set's folder says; sets from before an option was there lack its default."""
        arguments = asdict(self)
        if not self.varied_sizes:
            del arguments["varied_sizes"]
        return arguments


def _rng(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index])


def _segment_ids(segments: list[Segment]) -> list[int]:
    """Ids whose RGB encoding resembles the class's colour: red varies, green and blue do not."""
    colors = {c["name"]: c["color"] for c in CATEGORIES}
    seen: dict[str, int] = {}
    ids = []
    for segment in segments:
        nth = seen[segment.name] = seen.get(segment.name, -1) + 1
        red, green, blue = colors[segment.name]
        ids.append((red + 37 * nth) % 256 + 256 * green + 65536 * blue)
    return ids


def write_image(path: Path, image: Array) -> None:
    """Writes a picture, BGR, or raises OSError."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), image, options):
        raise OSError(f"Cannot write {path}.")


def _write_scene(paths: SplitPaths, image_id: int, scene: Scene) -> dict[str, Any]:
    """Writes one scene's three files; returns its entries for the two JSON files."""
    stem = f"{image_id:06d}"
    file_name = stem + (".png" if image_id % 10 == 4 else ".jpg")
    ids = _segment_ids(scene.segments)
    id_map = np.array([0, *ids], np.int32)[scene.labels]
    segments = [
        segment_info(id_map, segment_id, CATEGORY_IDS[segment.name])
        for segment_id, segment in zip(ids, scene.segments, strict=True)
    ]
    semantic = semantic_map(id_map, segments, _CONTIGUOUS_IDS, IGNORE_LABEL)
    write_image(paths.images / file_name, scene.image)
    write_image(paths.panoptic / f"{stem}.png", np.ascontiguousarray(id2rgb(id_map)[..., ::-1]))
    write_image(paths.semantic / f"{stem}.png", semantic)
    height, width = id_map.shape
    return {
        "image": {"id": image_id, "file_name": file_name, "height": height, "width": width},
        "panoptic": {
            "image_id": image_id,
            "file_name": f"{stem}.png",
            "segments_info": segments,
        },
        "instances": instance_annotations(id_map, segments, _THING_IDS),
    }


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, separators=(",", ":")), encoding="utf-8")


def _write_annotations(paths: SplitPaths, records: list[dict[str, Any]]) -> None:
    images = [record["image"] for record in records]
    instances = [
        {"id": number, "image_id": image_id, **instance}
        for number, (image_id, instance) in enumerate(
            ((r["image"]["id"], i) for r in records for i in r["instances"]), start=1
        )
    ]
    things = [c for c in CATEGORIES if c["isthing"]]
    info = {"description": "axial_d2 demo data set"}
    panoptic = [record["panoptic"] for record in records]
    _write_json(
        paths.panoptic_json,
        {"info": info, "images": images, "annotations": panoptic, "categories": CATEGORIES},
    )
    _write_json(
        paths.instances_json,
        {"info": info, "images": images, "annotations": instances, "categories": things},
    )


def _write_split(
    paths: SplitPaths, arguments: DemoArguments, progress: Callable[[Iterable], Iterable]
) -> None:
    for folder in (paths.images, paths.panoptic, paths.semantic, paths.panoptic_json.parent):
        folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index in progress(range(arguments.count(paths.split))):
        rng = _rng(arguments.seed, paths.split, index)
        scene = draw_scene(rng, index, arguments.image_scale, arguments.varied_sizes)
        records.append(_write_scene(paths, index + 1, scene))
    _write_annotations(paths, records)


def check_arguments(
    seed: int, counts: dict[str, int], image_scale: float, sides: str, least: int = 1
) -> None:
    """Raises ValueError for what no demo data set can be drawn with.

    Args:
        seed: of the random numbers.
        counts: name of an argument → its number of pictures.
        image_scale: factor on the pictures' size.
        sides: of the pictures at image scale 1, in words.
        least: each of ``counts``.
    """
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name} is {count}; it must be at least {least}.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more.")
    if not 0.5 <= image_scale <= 16:
        raise ValueError(
            f"image_scale is {image_scale}; it must lie in [0.5, 16] (1 gives pictures of {sides})."
        )


def make_demo_dataset(
    output_dir: str | Path,
    seed: int = 0,
    num_train: int = 800,
    num_val: int = 80,
    *,
    image_scale: float = 1.0,
    varied_sizes: bool = False,
    force: bool = False,
    progress: bool = False,
) -> bool:
    """Draws the demo data set.

    Writes ``{train,val}/`` (JPEG, every tenth PNG), ``panoptic_{train,val}/`` (segment ids as
    RGB), ``semantic_{train,val}/`` (uint8 contiguous class ids, 255 unlabelled) and
    ``annotations/{panoptic,instances}_{train,val}.json``; last of all ``manifest.json``. Each
    picture depends on the seed, its split and its number alone, so larger sets begin with the
    same pictures.

    Args:
        output_dir: created where missing.
        seed: 0 or more. The same arguments give the same bytes.
        num_train: pictures for training, at least 1.
        num_val: pictures for validation, at least 1; no scene is in both splits.
        image_scale: in [0.5, 16]; 1 gives pictures of 96 to 144 pixels a side.
        varied_sizes: things differ in length by up to a factor of six.
        force: replaces what ``output_dir`` holds, and draws anew what is already there.
        progress: shows a progress bar.

    Returns:
        True when the set was drawn, False when it was already there.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: ``output_dir`` holds another set, or an unfinished one, without ``force``.
    """
    root = Path(output_dir)
    arguments = DemoArguments(seed, num_train, num_val, image_scale, varied_sizes)
    counts = {"num_train": num_train, "num_val": num_val}
    check_arguments(seed, counts, image_scale, "96 to 144 pixels")
    if is_finished(root, arguments.manifest(), ENTRIES, force):
        return False
    for split in SPLITS:

        def show(items: Iterable, split: str = split) -> Iterable:
            return tqdm(items, desc=f"drawing {split}", unit="image", disable=not progress)

        _write_split(SplitPaths(root, split), arguments, show)
    finish(root, arguments.manifest())
    return True
