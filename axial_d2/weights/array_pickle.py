"""Pickles of NumPy arrays, such as Detectron2's ``.pkl``, read without running code from them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from axial_d2.weights.core import WeightsError


def read_arrays(path: Path) -> Any:
    """What a pickle of NumPy arrays, numbers and strings in plain containers holds.

    Raises:
        WeightsError: it asks for anything else.
    """
    with path.open("rb") as file:
        # Pickles of Python 2 have arrays as byte strings.
        return _ArrayUnpickler(file, encoding="latin1").load()


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


# What arrays pickled with protocols up to 4, and with 5, are rebuilt by.
_RECONSTRUCT: Any = np.zeros(1).__reduce_ex__(2)[0]
_FROM_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # NumPy 2 renamed the module.
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise WeightsError(
                f"is a pickle that asks for {module}.{name}; only NumPy arrays in plain "
                "containers are read, since anything else could run code"
            ) from None
