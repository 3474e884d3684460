"""Finds every defect of an image folder, where loading stops at the first."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from axial_d2.data.problems import Problem, ProblemKind
from axial_d2.data.reading import DatasetError, read_image
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset
from tqdm import tqdm


def check_image_folder(
    root: str | os.PathLike, *, workers: int | None = None, progress: bool = False
) -> list[Problem]:
    """Checks a folder that holds one folder a class, reading each image as the mapper does.

    Args:
        root: as :func:`axial_d2.data.register_image_folder` takes it.
        workers: threads that read files; by default one a processor, at most 8.
        progress: shows a progress bar.

    Returns:
        All defects found, none for a sound data set: classes without an image first, then images
        that cannot be decoded, by class and name.
    """
    path = os.fspath(root)
    if not os.path.isdir(path):
        return [Problem(ProblemKind.EMPTY_DATASET, path, "is not a folder")]
    try:
        classes, labels = find_classes(path)
    except FileNotFoundError:
        message = "holds no folder; images must lie in one folder a class"
        return [Problem(ProblemKind.EMPTY_DATASET, path, message)]
    images = make_dataset(path, labels, IMG_EXTENSIONS, allow_empty=True)
    seen = {label for _, label in images}
    problems = [
        Problem(
            ProblemKind.CLASS_WITHOUT_IMAGE,
            os.path.join(path, name),
            f"holds no file that ends in {', '.join(IMG_EXTENSIONS)}",
        )
        for name in classes
        if labels[name] not in seen
    ]
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        found = tqdm(
            pool.map(_check_image, (file_name for file_name, _ in images)),
            total=len(images),
            desc="checking",
            unit="image",
            disable=not progress,
        )
        problems += [problem for problem in found if problem is not None]
    return problems


def _check_image(file_name: str) -> Problem | None:
    try:
        read_image(file_name, "RGB")
    except DatasetError as error:
        return Problem(ProblemKind.DAMAGED_IMAGE, file_name, str(error))
    return None
