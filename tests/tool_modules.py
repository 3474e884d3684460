"""The scripts in tools/ as modules, and what running one leaves in a process."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(__file__).parents[1]
LOGGERS = ("detectron2", "fvcore")


def load_tool(name: str) -> ModuleType:
    """tools/<name>.py, not run."""
    path = ROOT / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tool_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # which dataclasses look up
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def clean_process() -> Iterator[None]:
    """Forgets data sets, log files and the number of threads of the runs within it."""
    registered, threads = (set(DatasetCatalog), set(MetadataCatalog)), torch.get_num_threads()
    handlers = {name: list(logging.getLogger(name).handlers) for name in LOGGERS}
    yield
    torch.set_num_threads(threads)
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), registered, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)
    for name, before in handlers.items():
        logging.getLogger(name).handlers = before
