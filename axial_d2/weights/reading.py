"""Checkpoint files, read without running code from them.

PyTorch's files are read with ``weights_only``; a Detectron2 ``.pkl`` with an unpickler that knows
NumPy arrays and nothing else, and only on request.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from axial_d2.weights.array_pickle import read_arrays
from axial_d2.weights.core import Tensors, WeightsError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

# Where trainers put the tensors beside their own state.
WRAPPERS = ("model", "state_dict", "model_state", "blobs")
# Where a converter notes which of the model's tensors its source does not have.
UNFILLED = "unfilled"
SHOWN = 8
_LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_AGAIN = "fetch it again, and compare its size with the source's"


def read_tensors(path: str | Path, allow_pickle: bool = False) -> Tensors:
    """All tensors of a checkpoint, by name.

    Args:
        path: a PyTorch file (new or legacy), a ``.safetensors`` file, a TensorFlow checkpoint (its
            folder, prefix or index file), or with ``allow_pickle`` a ``.pkl`` of Detectron2.
        allow_pickle: whether to read pickled NumPy arrays; default no.

    Returns:
        The tensors, which may lie under "model" or "state_dict" in the file; a prefix "module."
        of data-parallel training is removed.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file is damaged, something else, or holds more than tensors.
    """
    path = Path(path)
    if is_tensorflow(path):
        from axial_d2.weights.deeplab2_reading import read_checkpoint

        return read_checkpoint(path)
    return tensors_in(read_file(path, allow_pickle), path)


def is_tensorflow(path: Path) -> bool:
    """Whether this is the folder, prefix or a file of a TensorFlow checkpoint."""
    is_part = re.search(r"\.(index|data-\d+-of-\d+)$", path.name) is not None
    return path.is_dir() or is_part or path.with_name(path.name + ".index").is_file()


def read_file(path: str | Path, allow_pickle: bool = False) -> Any:
    """What a PyTorch, safetensors or (on request) pickle file holds, trainers' state included.

    Raises:
        FileNotFoundError, WeightsError: as in :func:`read_tensors`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    with path.open("rb") as file:
        head = file.read(512)
    try:
        read = _reader(path, head)
        if read is read_arrays and not allow_pickle:
            raise WeightsError(
                "is a pickle, which may hold any code; where it is a Detectron2 file of arrays, "
                "ask for it with --allow-pickle (arrays are read then, all else is refused)"
            )
        return read(path)
    except Exception as error:  # torch, pickle and zipfile raise anything on a damaged file
        raise WeightsError(f"{path} cannot be read: it {_reason(error)}.") from error


def tensors_in(loaded: Any, path: str | Path) -> Tensors:
    """The tensors in what :func:`read_file` returned; see :func:`read_tensors`.

    Raises:
        WeightsError: something else than tensors is in their place.
    """
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    found = f"a {type(loaded).__name__}"
    if isinstance(loaded, Mapping):
        others = [str(key) for key, value in loaded.items() if not _is_tensor(key, value)]
        found = f"a mapping with {others[:SHOWN]}, which are no tensors" if loaded else "nothing"
        if loaded and not others:
            found = ""
    if found:
        raise WeightsError(
            f"{path} holds {found}; a checkpoint holds a mapping from names to tensors, perhaps "
            "under 'model' or 'state_dict'."
        )
    prefix = "module." if all(name.startswith("module.") for name in loaded) else ""
    return {name.removeprefix(prefix): torch.as_tensor(value) for name, value in loaded.items()}


def _is_tensor(key: Any, value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return isinstance(key, str) and value.dtype.kind in "fiub"
    return isinstance(key, str) and isinstance(value, Tensor)


def _reader(path: Path, head: bytes) -> Callable[[Path], Any]:
    """What reads a file that begins with ``head``; WeightsError where nothing does."""
    problem = _other_kind(head)
    if problem:
        raise WeightsError(problem)
    if path.suffix == ".safetensors" or head[8:10] == b'{"':
        return _read_safetensors
    if head.startswith((b"PK\x03\x04", _LEGACY_MAGIC)):
        return _read_torch
    if head.startswith(b"\x80"):
        return read_arrays
    raise WeightsError(
        "is no checkpoint of PyTorch, safetensors or TensorFlow (it begins with "
        f"{head[:8]!r}); {_AGAIN}"
    )


def _other_kind(head: bytes) -> str:
    """What a file is that holds no weights, or "" where it may hold some."""
    if not head:
        return f"is empty; {_AGAIN}"
    if _WEB_PAGE.match(head):
        return (
            "is a web page, not a checkpoint: the download gave a page about the file (a log-in, "
            "a confirmation, an error); open it in a browser and fetch the file itself"
        )
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; run `git lfs pull` where it comes from"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or head[257:262] == b"ustar":
        return "is an archive; unpack it (tar xf) and give the checkpoint that is inside"
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file (Keras), which is none of the known formats"
    return ""


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    content: dict[str, Any] = {"model": load_file(path)}
    if UNFILLED in metadata:
        content[UNFILLED] = json.loads(metadata[UNFILLED])
    return content


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip and not zipfile.is_zipfile(path):
        raise WeightsError(f"is incomplete, its end is missing; {_AGAIN}")
    if is_zip:
        _require_plain_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _require_plain_archive(path: Path) -> None:
    """Refuses zip archives of others, and those that hold more than their own size."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        raise WeightsError("is a zip archive but no PyTorch checkpoint")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > path.stat().st_size:
        raise WeightsError(
            f"is a compressed archive, of {unpacked:,} bytes when unpacked, and PyTorch's are not "
            "compressed; where you trust it, load it and save it anew with torch.save"
        )


def _reason(error: Exception) -> str:
    """One sentence for what the libraries say in many."""
    message = str(error)
    if isinstance(error, WeightsError):
        return message
    forbidden = re.search(r"GLOBAL ([\w.]+)", message)
    if isinstance(error, pickle.UnpicklingError) and forbidden:
        return (
            f"holds Python objects ({forbidden[1]}) beside tensors, which are not read because "
            "that could run code; where you trust it, save its tensors alone: "
            "torch.save({'state_dict': …}, …)"
        )
    if isinstance(error, SafetensorError):
        return f"is a damaged or incomplete safetensors file ({message}); {_AGAIN}"
    first = (message.strip().splitlines() or ["no details"])[0]
    return f"is damaged or incomplete ({type(error).__name__}: {first[:120]}); {_AGAIN}"
