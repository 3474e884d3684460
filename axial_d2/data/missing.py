"""Stands in for a data set whose files are not there, so that naming it is no error but using it.

As with Detectron2's own data sets, a config may then name a data set on a machine that lacks it,
to count a model's parameters, say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog


@dataclass(frozen=True)
class MissingDataset:
    """Loading it raises the error that registering the data set met."""

    error: Exception

    def __call__(self) -> list[dict[str, Any]]:
        raise type(self.error)(str(self.error))


class MissingMetadata(Metadata):
    """Metadata of a data set that is not there; asking it for anything raises that error."""

    def __getattr__(self, key: str) -> Any:
        error = self.__dict__.get("error")
        if error is None or key.startswith("__"):  # copying and pickling ask for such
            return super().__getattr__(key)
        raise type(error)(str(error))


def register_missing(name: str, error: Exception) -> None:
    """Registers a stand-in; a later registration of the data set itself may replace it.

    Args:
        name: of the data set.
        error: what to raise when it is used; its type must take the message alone.
    """
    DatasetCatalog[name] = MissingDataset(error)
    MetadataCatalog[name] = MissingMetadata(name=name, error=error)


def is_missing(name: str) -> bool:
    """Whether a stand-in has this name."""
    return name in DatasetCatalog and isinstance(DatasetCatalog[name], MissingDataset)
