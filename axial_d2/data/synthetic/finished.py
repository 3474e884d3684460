"""Whether a folder already holds the set that is to be drawn, as its manifest says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def is_finished(
    root: Path, manifest: dict[str, Any], entries: Iterable[str], force: bool = False
) -> bool:
    """Whether ``root`` holds exactly this set; clears it for a new one where allowed.

    Args:
        root: folder of the set.
        manifest: what determines the set's files.
        entries: names in ``root`` that a set may have.
        force: replaces whatever is there.

    Raises:
        FileExistsError: it holds something else and ``force`` is not given.
    """
    file = root / MANIFEST
    existing = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if existing == manifest and not force:
        return True
    present = [root / name for name in entries if (root / name).exists()]
    if existing is not None and not force:
        raise FileExistsError(
            f"{root} holds a demo data set made with {existing}, and this one would be "
            f"{manifest}. Choose another folder, or pass --force (force=True) to replace it."
        )
    if present and existing is None and not force:
        raise FileExistsError(
            f"{root} already holds {', '.join(p.name for p in present)}, but no {MANIFEST} of a "
            "finished demo data set (an earlier run may have been interrupted). Choose another "
            "folder, or pass --force (force=True) to replace them."
        )
    file.unlink(missing_ok=True)
    for path in present:
        shutil.rmtree(path)
    return False


def finish(root: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest, which is what makes a set complete."""
    text = json.dumps(manifest, indent=2)
    (root / MANIFEST).write_text(text + "\n", encoding="utf-8")
