"""Writes image folders of a few pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def write_folder(
    root: Path, counts: Mapping[str, int], size: tuple[int, int] = (10, 12), suffix: str = ".png"
) -> Path:
    """``counts`` random pictures of ``size`` (height, width) in a folder a class."""
    rng = np.random.default_rng(3)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}{suffix}")
    return root
