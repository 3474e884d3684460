"""The demo data set under the names that the demo's config uses."""

from __future__ import annotations

import os

from axial_d2.data.panoptic import register_panoptic_dataset
from axial_d2.data.synthetic import SPLITS, SplitPaths


def register_demo_dataset(root: str | os.PathLike, prefix: str = "axial_d2_demo") -> list[str]:
    """Registers the demo data set that ``make_demo_dataset`` wrote.

    Args:
        root: its folder.
        prefix: names become ``{prefix}_train`` and ``{prefix}_val``.

    Returns:
        The two names.

    Raises:
        FileNotFoundError: the folder holds no finished demo data set.
        ValueError: a name is taken by another data set.
    """
    names = []
    for split in SPLITS:
        paths = SplitPaths.of(os.fspath(root), split)
        if not paths.panoptic_json.is_file():
            raise FileNotFoundError(
                f"{paths.panoptic_json} does not exist, so {os.fspath(root)!r} holds no demo data "
                f"set. Run `python tools/make_demo_dataset.py --output {os.fspath(root)}` first."
            )
        names.append(f"{prefix}_{split}")
        register_panoptic_dataset(
            names[-1],
            paths.images,
            paths.panoptic,
            paths.panoptic_json,
            instances_json=paths.instances_json,
            sem_seg_root=paths.semantic,
        )
    return names
