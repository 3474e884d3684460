"""What is done to weights of a model that differs in its table lengths or number of classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_TABLE = re.compile(r"(^|\.)(query|key|value)_table$")
# Last layers, one output channel or more a class.
_PREDICTOR = re.compile(r"predictor\.|(^|\.)linear\.(weight|bias)$")


@dataclass(frozen=True)
class Fitted:
    """A tensor for the model, None where the model keeps its own, and what was changed if any."""

    tensor: Tensor | None
    change: str = ""


def fit(name: str, tensor: Tensor, shape: Sequence[int]) -> Fitted | None:
    """A tensor of the shape that the model has under ``name``, or None where no rule allows it.

    Args:
        name: in the model's state dict.
        tensor: from the checkpoint, in the model's layout.
        shape: in the model.
    """
    given, wanted = tuple(tensor.shape), tuple(shape)
    if given == wanted:
        return Fitted(tensor)
    if _TABLE.search(name) and given[1:] == wanted[1:] and given[0] % 2 == wanted[0] % 2 == 1:
        return Fitted(resize_table(tensor, wanted[0]), _table_change(given[0], wanted[0]))
    if has_other_classes(name, given, wanted):
        return Fitted(
            None,
            f"the predictor has {given[0]} output channels in the checkpoint and {wanted[0]} in "
            "the model (another number of classes); it keeps its initial values",
        )
    return None


def has_other_classes(name: str, given: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a last layer differs from the model's in the number of its outputs alone."""
    return _PREDICTOR.search(name) is not None and tuple(given[1:]) == tuple(wanted[1:])


def resize_table(table: Tensor, rows: int) -> Tensor:
    """A position table for another maximal span; row (rows - 1) / 2 stays offset 0.

    A longer table repeats the first and the last row, which is what offsets beyond a table share
    anyway: attention is unchanged at every size. A shorter one loses as many rows on either side,
    so that offsets beyond it share other rows than before.

    Args:
        table: [any odd number of rows, channels].
        rows: odd.
    """
    assert table.shape[0] % 2 == rows % 2 == 1, "tables have a row for offset 0 in the middle"
    added = (rows - table.shape[0]) // 2
    if added < 0:
        return table[-added:added]
    return torch.cat([table[:1].expand(added, -1), table, table[-1:].expand(added, -1)])


def _table_change(given: int, wanted: int) -> str:
    if wanted > given:
        return (
            f"position table grown from {given} to {wanted} rows, repeating the last row on each "
            "side (attention is unchanged)"
        )
    return (
        f"position table shrunk from {given} to {wanted} rows, cut on both sides of offset 0 "
        f"(offsets beyond ±{(wanted - 1) // 2} now share its last rows)"
    )
