"""Registers images in one folder a class, ImageNet's layout, for classification."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from axial_d2.data.reading import DatasetError
from axial_d2.data.registering import is_registered, local_path
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from torchvision.datasets.folder import (
    IMG_EXTENSIONS,
    find_classes,
    has_file_allowed_extension,
    make_dataset,
)

_LAYOUT = "Images must lie in one folder a class: <root>/<class name>/<image>."


@dataclass(frozen=True)
class ImageFolder:
    """What a data set was registered with; calling it lists its images.

    Attributes:
        root: holds one folder a class.
        classes: names of the folders; the index is the label.
    """

    root: str
    classes: tuple[str, ...]

    def __call__(self) -> list[dict[str, Any]]:
        return load_image_folder_dicts(self)


class ImageFolderMetadata(Metadata):
    """Metadata whose ``counts`` are found when first asked for: ImageNet has a million files."""

    def __getattr__(self, key: str) -> Any:
        dataset = self.__dict__.get("dataset")
        if dataset is None or key != "counts":
            return super().__getattr__(key)
        found = Counter(record["label"] for record in dataset())
        counts = {name: found[label] for label, name in enumerate(dataset.classes)}
        self.__dict__[key] = counts
        return counts


def load_image_folder_dicts(dataset: ImageFolder) -> list[dict[str, Any]]:
    """Lists the images of a data set; opens none of them.

    Returns:
        One dict an image, by class and then by name: ``file_name``; ``image_id``, the path under
        the root with forward slashes; ``label``, the index of its class.

    Raises:
        FileNotFoundError: the folder is not there any more.
        DatasetError: its class folders have changed since, or one has no image.
    """
    _check_classes(dataset.root, dataset.classes)
    labels = {name: label for label, name in enumerate(dataset.classes)}
    return [
        {
            "file_name": file_name,
            "image_id": os.path.relpath(file_name, dataset.root).replace(os.sep, "/"),
            "label": label,
        }
        for file_name, label in make_dataset(dataset.root, labels, IMG_EXTENSIONS)
    ]


def _check_classes(root: str, classes: Sequence[str]) -> None:
    """Raises DatasetError unless the folder has these classes, each with an image."""
    found = _class_folders(root)
    missing = [name for name in classes if name not in found]
    unknown = [name for name in found if name not in set(classes)]
    if missing or unknown:
        raise DatasetError(
            f"{root} and the given classes differ: {_some(missing)} given without a folder, "
            f"{_some(unknown)} found that are not among the classes. Give each folder's name "
            "once, or leave classes out to have the sorted names of the folders."
        )
    empty = [name for name in classes if not _has_image(os.path.join(root, name))]
    if empty:
        raise DatasetError(
            f"{root} has no image for {_some(empty)} of its {len(classes)} classes. Images end in "
            f"{', '.join(IMG_EXTENSIONS)}; add some, or take the folders away."
        )


def _some(names: Sequence[str], most: int = 5) -> str:
    return f"{len(names)} ({', '.join(names[:most])}{', …' if len(names) > most else ''})"


def _class_folders(root: str) -> list[str]:
    """Sorted names.

    Raises:
        FileNotFoundError: there is no such folder.
        DatasetError: it holds no folder.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(
            f"The image folder {root} does not exist or is no folder. {_LAYOUT}"
        )
    try:
        return find_classes(root)[0]
    except FileNotFoundError as error:
        loose = sum(has_file_allowed_extension(name, IMG_EXTENSIONS) for name in os.listdir(root))
        raise DatasetError(
            f"The image folder {root} holds no class folder, but {loose} images. {_LAYOUT}"
        ) from error


def _has_image(folder: str) -> bool:
    """Stops at the first one; looks into folders below as torchvision does."""
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                below.append(entry.path)
            elif has_file_allowed_extension(entry.name, IMG_EXTENSIONS):
                return True
    return any(map(_has_image, below))


def _check_names(classes: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise ValueError(f"classes has {_some(repeated)} twice or more; give each name once.")
    if not classes:
        raise ValueError("classes is empty; give the folders' names, or leave it out.")


def register_image_folder(
    name: str, root: str | os.PathLike, *, classes: Sequence[str] | None = None
) -> None:
    """Registers an image folder in ``DatasetCatalog`` and ``MetadataCatalog``.

    The layout is that of ImageNet and of torchvision's ``ImageFolder``,
    ``<root>/<class name>/…/<image>``; files that are no images are passed over. The class folders
    are looked at now, the images only when the data set is used. The metadata are ``classes``
    (list, the index is the label), ``counts`` (class → number of images), ``image_root`` and
    ``evaluator_type`` "classification".

    Args:
        name: of the data set in configs, such as "pets_train".
        root: folder on this machine that holds one folder a class.
        classes: the folders' names in the order of their labels, such as a checkpoint was trained
            with; by default sorted.

    Raises:
        FileNotFoundError: ``root`` is not a folder.
        ValueError: ``name`` is taken by another data set, or ``classes`` is empty or has a name
            twice. Registering the same again is fine.
        DatasetError: there is no class folder, one has no image, or they are others than
            ``classes`` says (a ``ValueError``).
    """
    path = local_path(root)
    if classes is not None:
        _check_names(classes)
    names = tuple(classes) if classes is not None else tuple(_class_folders(path))
    dataset = ImageFolder(path, names)
    if is_registered(name, dataset):
        return
    _check_classes(path, names)
    MetadataCatalog[name] = ImageFolderMetadata(
        name=name,
        dataset=dataset,
        image_root=path,
        classes=list(names),
        evaluator_type="classification",
    )
    DatasetCatalog[name] = dataset
