"""Pickles of NumPy arrays, such as Detectron2's ``.pkl``, read without running code from them.

NumPy's own functions do not get to see a pickle: they believe what it says of an array, such as
that its bytes are addresses of Python objects.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from axial_d2.weights.core import WeightsError


def read_arrays(path: Path) -> Any:
    """What a pickle of arrays of numbers, numbers and strings in plain containers holds.

    Raises:
        WeightsError: it asks for anything else.
    """
    with path.open("rb") as file:
        # Pickles of Python 2 have arrays as byte strings.
        return _with_arrays(_ArrayUnpickler(file, encoding="latin1").load())


class _Numbers:
    """Stands for a dtype, of numbers or bools."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        if not (isinstance(code, str) and re.fullmatch(r"[fiu][1248]|b1", code)):
            raise WeightsError(f"is a pickle with an array of {code!r}; only numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, *rest = state
        if order not in ("<", ">", "|", "=") or rest[:5] != [None, None, None, -1, -1]:
            raise WeightsError("is a pickle with an array that is of more than plain numbers")
        self.dtype = self.dtype.newbyteorder(order)

    def array(self, data: Any, shape: Any, order: str) -> np.ndarray:
        """A copy of ``data`` in that shape, in this machine's byte order.

        Raises:
            WeightsError: ``data`` has more bytes or fewer.
        """
        data = data.encode("latin1") if isinstance(data, str) else bytes(data)
        if math.prod(shape) * self.dtype.itemsize != len(data):
            raise WeightsError(
                f"is a pickle with {len(data)} bytes for an array of shape {tuple(shape)} of "
                f"{self.dtype}"
            )
        array = np.frombuffer(data, self.dtype).reshape(shape, order=order)  # type: ignore
        return array.astype(self.dtype.newbyteorder("="))


class _Array:
    """Stands for an array until its contents are there."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, numbers, is_fortran, data = state
        self.value = _from_buffer(data, numbers, shape, "F" if is_fortran else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, numbers: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(numbers, _Numbers):
        raise WeightsError("is a pickle with an array of no kind of numbers")
    return numbers.array(data, shape, order)


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


def _with_arrays(loaded: Any) -> Any:
    """Plain containers with arrays where these stand for them."""
    if isinstance(loaded, _Array):
        return loaded.value
    if isinstance(loaded, dict):
        return type(loaded)((key, _with_arrays(value)) for key, value in loaded.items())
    if isinstance(loaded, (list, tuple)):
        return type(loaded)(map(_with_arrays, loaded))
    return loaded


# What arrays pickled with protocols up to 4, and with 5, are rebuilt by.
_ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "ndarray"): "the class of arrays, which is called by nobody",
    ("numpy", "dtype"): _Numbers,
    # NumPy 2 renamed the module.
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
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
