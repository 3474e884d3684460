"""Reading TensorFlow checkpoints, for which alone tensorflow is needed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from axial_d2.weights.core import Tensors, WeightsError

# Optimizers keep several times the weights, which nothing here reads.
WITHOUT_VALUES = re.compile(r"/\.OPTIMIZER_SLOT/|^optimizer/")
_DATA = re.compile(r"\.(index|data-\d+-of-\d+)$")


def read_checkpoint(path: str | Path) -> Tensors:
    """All numeric tensors of a TensorFlow checkpoint, by name; code in it does not run.

    Args:
        path: the common prefix of its files ("…/ckpt-60000"), one of them, or a folder with a
            single checkpoint in it.

    Returns:
        Tensors on the CPU. What belongs to an optimizer has a name and a shape, on the meta
        device, and no values. TensorFlow's own description of the objects is left out.

    Raises:
        WeightsError: tensorflow is not installed, no or several checkpoints, one that is damaged.
    """
    prefix = _only_prefix(Path(path))
    tensorflow = _import_tensorflow(prefix)
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        types = reader.get_variable_to_dtype_map()
        shapes = reader.get_variable_to_shape_map()
        return {
            name: _tensor(reader, name, shapes[name])
            for name in sorted(shapes)
            if types[name] != tensorflow.string
        }
    except (tensorflow.errors.OpError, RuntimeError, ValueError, LookupError) as error:
        raise WeightsError(
            f"the TensorFlow checkpoint {prefix} cannot be read: {_first_line(error)}. Both its "
            ".index and its .data-… files are needed, whole; fetch them again."
        ) from error


def _tensor(reader: Any, name: str, shape: list[int]) -> torch.Tensor:
    if WITHOUT_VALUES.search(name):
        return torch.empty(shape, device="meta")
    return torch.as_tensor(reader.get_tensor(name))


def _import_tensorflow(prefix: Path) -> Any:
    # What it says of the machine is of no use to who only reads.
    for variable, value in (("TF_CPP_MIN_LOG_LEVEL", "2"), ("TF_ENABLE_ONEDNN_OPTS", "0")):
        os.environ.setdefault(variable, value)
    try:
        import tensorflow
    except ImportError as error:
        raise WeightsError(
            f"{prefix} is a TensorFlow checkpoint, and tensorflow is not installed; to convert it "
            "once, run tools/setup_tensorflow.py and then the same command with "
            ".venv-tensorflow/bin/python in front (docs/weights.md)."
        ) from error
    return tensorflow


def _only_prefix(path: Path) -> Path:
    if path.is_dir():
        found = _prefixes(path)
        if len(found) == 1:
            return found[0]
        if not found:
            raise WeightsError(f"the folder {path} holds no TensorFlow checkpoint, no .index file.")
        raise WeightsError(
            f"the folder {path} holds {len(found)} TensorFlow checkpoints, "
            f"{', '.join(str(each.name) for each in found)}; name one of them, with its folder."
        )
    prefix = path.with_name(_DATA.sub("", path.name))
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        raise WeightsError(
            f"{prefix}.index does not exist; a TensorFlow checkpoint has a .index and one or more "
            ".data-… files, and is named by what comes before."
        )
    return prefix


def _prefixes(folder: Path) -> list[Path]:
    return [path.with_suffix("") for path in sorted(folder.glob("*.index"))]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
