"""Writing converted weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from axial_d2.weights.core import Tensors
from axial_d2.weights.reading import UNFILLED
from safetensors.torch import save_file


def write_tensors(
    tensors: Tensors,
    path: str | Path,
    *,
    key: str = "model",
    unfilled: Collection[str] = (),
    overwrite: bool = False,
) -> None:
    """Writes tensors to a ``.pth`` or ``.safetensors`` file, completely or not at all.

    Args:
        tensors: by name.
        path: its suffix says which format.
        key: that they are stored under in a ``.pth``: "model" (default) for Detectron2.
        unfilled: names of the model's tensors that are left out on purpose, which are noted
            beside the tensors, so that who loads them knows that nothing got lost.
        overwrite: whether a file may be replaced; default no.

    Raises:
        FileExistsError: there is such a file.
        ValueError: another suffix.
    """
    path = Path(path)
    check_output(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    # Clones: safetensors refuses tensors that share memory.
    separate = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    try:
        WRITERS[path.suffix](separate, unfinished, key, list(unfilled))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_output(path: Path, overwrite: bool) -> None:
    """Raises what :func:`write_tensors` would, before the work is done."""
    if path.suffix not in WRITERS:
        raise ValueError(f"{path} must end in {' or '.join(WRITERS)}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; give another name, or --force to replace it.")


def _write_torch(tensors: Tensors, path: Path, key: str, unfilled: list[str]) -> None:
    content: dict[str, Any] = {key: tensors}
    torch.save(content | ({UNFILLED: unfilled} if unfilled else {}), path)


def _write_safetensors(tensors: Tensors, path: Path, key: str, unfilled: list[str]) -> None:
    metadata = {"format": "pt"}
    path.touch()
    usual = path.stat().st_mode
    save_file(tensors, path, metadata | ({UNFILLED: json.dumps(unfilled)} if unfilled else {}))
    path.chmod(usual)  # safetensors narrows it to the owner


WRITERS: dict[str, Callable[[Tensors, Path, str, list[str]], None]] = {
    ".pth": _write_torch,
    ".safetensors": _write_safetensors,
}
