"""Writes the demo's image folder, for classification: one folder a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from axial_d2.data.synthetic.finished import finish, is_finished
from axial_d2.data.synthetic.portraits import (
    PORTRAIT_CLASSES,
    TEXTURE_CLASSES,
    draw_portrait,
    draw_texture,
)
from axial_d2.data.synthetic.writer import SPLITS, check_arguments, write_image
from tqdm import tqdm

#: What the pictures show → names of the classes, and what draws one of them.
SUBJECTS = {
    "portraits": (PORTRAIT_CLASSES, draw_portrait),
    "textures": (TEXTURE_CLASSES, draw_texture),
}
_VERSION = 1  # raised by whoever changes what the same arguments draw


def make_demo_image_folder(
    root: str | Path,
    *,
    seed: int = 0,
    num_train: int = 4000,
    num_val: int = 500,
    image_scale: float = 1.0,
    subject: str = "portraits",
    force: bool = False,
    progress: bool = False,
) -> bool:
    """Draws a set for classification in ImageNet's layout.

    Writes ``{train,val}/<class>/<number>.png``, the classes taking turns, and ``manifest.json``
    last of all. Portraits have the ten classes of the demo data set: a picture shows one thing
    before stuff of any kind, and the thing is its class, or stuff alone, which then is. Textures
    have six, one of which fills a picture. Colours do not tell the class. Each picture depends on
    the seed, its split and its number alone, so larger sets begin with the same pictures.

    Args:
        root: folder to write, created where missing.
        seed: 0 or more. The same arguments give the same bytes.
        num_train: pictures for training, at least one a class.
        num_val: pictures for validation, at least one a class.
        image_scale: in [0.5, 16]; 1 gives pictures of 48 x 48 pixels.
        subject: "portraits", or "textures", which are easier to tell apart.
        force: replaces what ``root`` holds, and draws anew what is already there.
        progress: shows a progress bar.

    Returns:
        True when the set was drawn, False when it was already there.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: ``root`` holds another set, or an unfinished one, without ``force``.
    """
    root = Path(root)
    if subject not in SUBJECTS:
        raise ValueError(f"subject is {subject!r}; it must be one of {tuple(SUBJECTS)}.")
    counts = {"num_train": num_train, "num_val": num_val}
    check_arguments(seed, counts, image_scale, "48 pixels", least=len(SUBJECTS[subject][0]))
    manifest: dict[str, Any] = {
        "kind": "image folder" if subject == "portraits" else f"image folder of {subject}",
        "seed": seed,
        **counts,
        "image_scale": image_scale,
        "version": _VERSION,
    }
    if is_finished(root, manifest, SPLITS, force):
        return False
    for split in SPLITS:
        numbers = tqdm(
            range(counts[f"num_{split}"]), f"drawing {split}", unit="image", disable=not progress
        )
        for number in numbers:
            _write_picture(root / split, number, seed, subject, image_scale)
    finish(root, manifest)
    return True


def _write_picture(folder: Path, number: int, seed: int, subject: str, image_scale: float) -> None:
    classes, draw = SUBJECTS[subject]
    name = classes[number % len(classes)]
    rng = np.random.default_rng([seed, SPLITS.index(folder.name), number])
    path = folder / name / f"{number:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, draw(rng, name, image_scale))
