"""Finds every defect of a COCO-panoptic data set, where loading stops at the first.

:func:`check_panoptic_dataset` is the whole of it; ``tools/check_dataset.py`` prints what it finds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from axial_d2.data import schema
from axial_d2.data.panoptic_json import load_json
from axial_d2.data.problems import Problem, ProblemKind
from axial_d2.data.reading import DatasetError
from axial_d2.data.validation_files import check_files
from tqdm import tqdm

_LISTS = {
    "categories": schema.CATEGORY,
    "images": schema.IMAGE,
    "annotations": schema.ANNOTATION,
}


def _repeated(values: list[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _check_entry(where: str, entry: Any, keys: schema.Schema, file: str) -> list[Problem]:
    if not isinstance(entry, dict):
        return [Problem(ProblemKind.INVALID_VALUE, file, f"{where} is {entry!r}, not an object")]
    problems = [
        Problem(
            ProblemKind.MISSING_ISTHING if key == "isthing" else ProblemKind.MISSING_KEY,
            file,
            f"{where} has no {key!r}; required are {', '.join(keys)}",
        )
        for key in schema.missing_keys(entry, keys)
    ]
    problems += [
        Problem(ProblemKind.INVALID_VALUE, file, f"{where}: {sentence}")
        for sentence in schema.invalid_values(entry, keys)
    ]
    return problems


def _check_lists(data: dict[str, Any], file: str) -> list[Problem]:
    """Defects in the frame of the JSON, which leave nothing to check beneath them."""
    problems = []
    for key in _LISTS:
        if not isinstance(data.get(key), list):
            found = f"its keys are {', '.join(sorted(data)) or 'none'}"
            message = f"{key!r} must be a list; {found}"
            problems.append(Problem(ProblemKind.MALFORMED_JSON, file, message))
        elif not data[key]:
            problems.append(Problem(ProblemKind.EMPTY_DATASET, file, f"{key!r} is empty"))
    return problems


def _keep_sound(data: dict[str, Any], file: str, problems: list[Problem]) -> dict[str, Any]:
    """The entries fit for further checks; reports the others. ``isthing`` may be missing."""
    sound: dict[str, Any] = {}
    for key, keys in _LISTS.items():
        sound[key] = []
        for index, entry in enumerate(data[key]):
            found = _check_entry(f"{key}[{index}]", entry, keys, file)
            problems += found
            if all(p.kind is ProblemKind.MISSING_ISTHING for p in found):
                sound[key].append(entry)
    for annotation in sound["annotations"]:
        for index, segment in enumerate(annotation["segments_info"]):
            where = f"{annotation['file_name']}: segments_info[{index}]"
            problems += _check_entry(where, segment, schema.SEGMENT, file)
    return sound


def _check_ids(data: dict[str, Any], file: str) -> Iterator[Problem]:
    category_ids = [c["id"] for c in data["categories"]]
    image_ids = [i["id"] for i in data["images"]]
    annotated = [a["image_id"] for a in data["annotations"]]
    known, used = set(image_ids), set(annotated)
    for what, ids in (
        ("category id", category_ids),
        ("image id", image_ids),
        ("annotations of image id", annotated),
    ):
        for value in _repeated(ids):
            yield Problem(ProblemKind.DUPLICATE_ID, file, f"{what} {value!r} occurs twice or more")
    for annotation in data["annotations"]:
        if annotation["image_id"] not in known:
            message = f"{annotation['file_name']} belongs to unknown image id "
            message += repr(annotation["image_id"])
            yield Problem(ProblemKind.ANNOTATION_WITHOUT_IMAGE, file, message)
    for image in data["images"]:
        if image["id"] not in used:
            message = f"{image['file_name']} (image id {image['id']!r}) has no annotation"
            yield Problem(ProblemKind.IMAGE_WITHOUT_ANNOTATION, file, message)


def _check_file_names(images: list[dict[str, Any]], file: str) -> Iterator[Problem]:
    """``COCOPanopticEvaluator`` keeps one prediction for each name without folder and suffix."""
    stems = [os.path.splitext(os.path.basename(i["file_name"]))[0] for i in images]
    for stem in _repeated(stems):
        same = [i["file_name"] for i, s in zip(images, stems, strict=True) if s == stem]
        message = f"{', '.join(same)} share the name {stem!r}, so that Detectron2's "
        message += "COCOPanopticEvaluator would overwrite one's prediction by another's"
        yield Problem(ProblemKind.SAME_FILE_NAME, file, message)


def _check_segments(
    annotation: dict[str, Any], categories: dict[Any, dict[str, Any]], divisor: int, file: str
) -> Iterator[Problem]:
    name = annotation["file_name"]
    segments = schema.sound_entries(annotation["segments_info"], schema.SEGMENT)
    for value in _repeated([s["id"] for s in segments]):
        message = f"{name}: segment id {value} occurs twice or more"
        yield Problem(ProblemKind.DUPLICATE_ID, file, message)
    used = Counter(s["category_id"] for s in segments)
    for category_id, count in used.items():
        category = categories.get(category_id)
        if category is None:
            message = f"{name}: category_id {category_id!r} is not in categories "
            message += f"({sorted(categories)})"
            yield Problem(ProblemKind.UNKNOWN_CATEGORY, file, message)
        elif category.get("isthing") and count >= divisor:
            message = f"{name}: {count} instances of {category['name']!r}, but a label divisor of "
            message += f"{divisor} holds {divisor - 1}"
            yield Problem(ProblemKind.TOO_MANY_INSTANCES, file, message)


def _check_json(data: dict[str, Any], divisor: int, file: str) -> list[Problem]:
    """Every defect that shows without opening a picture."""
    problems = list(_check_ids(data, file))
    problems += _check_file_names(data["images"], file)
    categories = {c["id"]: c for c in data["categories"]}
    for annotation in data["annotations"]:
        problems += _check_segments(annotation, categories, divisor, file)
    return problems


def check_panoptic_dataset(
    image_root: str | os.PathLike,
    panoptic_root: str | os.PathLike,
    panoptic_json: str | os.PathLike,
    label_divisor: int = 1000,
    *,
    workers: int | None = None,
    progress: bool = False,
) -> list[Problem]:
    """Checks a COCO-panoptic data set, reading each picture and PNG as the loader does.

    Args:
        image_root: folder that ``images[].file_name`` starts from.
        panoptic_root: folder that ``annotations[].file_name`` starts from.
        panoptic_json: COCO-panoptic JSON.
        label_divisor: labels of one class in one picture that fit, plus one; 2 or more.
        workers: threads that read files; by default one a processor, at most 8.
        progress: shows a progress bar.

    Returns:
        All defects found, none for a sound data set. Defects of the JSON come first, then those
        of the files in the JSON's order.

    Raises:
        ValueError: ``label_divisor`` is below 2.
    """
    if label_divisor < 2:
        raise ValueError(f"label_divisor is {label_divisor}; it must be 2 or more (usually 1000).")
    path = os.fspath(panoptic_json)
    try:
        data = load_json(path, "panoptic_json")
    except (DatasetError, FileNotFoundError) as error:
        return [Problem(ProblemKind.MALFORMED_JSON, path, str(error))]
    problems = _check_lists(data, path)
    if problems:
        return problems
    sound = _keep_sound(data, path, problems)
    problems += _check_json(sound, label_divisor, path)

    annotations = {a["image_id"]: a for a in sound["annotations"]}
    pairs = [(image, annotations.get(image["id"])) for image in sound["images"]]

    def check(pair: tuple[dict[str, Any], dict[str, Any] | None]) -> list[Problem]:
        return check_files(os.fspath(image_root), os.fspath(panoptic_root), *pair)

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        bar = tqdm(
            pool.map(check, pairs),
            total=len(pairs),
            desc="checking",
            unit="image",
            disable=not progress,
        )
        for found in bar:
            problems += found
    return problems
