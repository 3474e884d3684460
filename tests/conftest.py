"""What all tests share: components registered first, one seed, and no data set left behind."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import axial_d2  # noqa: F401  bridges an old Detectron2, so it comes before the rest
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi import evaluation

# PQ is counted in forked processes, which may hang on locks of the many threads that the whole
# suite leaves behind; for the tests' few images threads do.
evaluation.multiprocessing = SimpleNamespace(Pool=ThreadPool, cpu_count=multiprocessing.cpu_count)

CATALOGS = (DatasetCatalog, MetadataCatalog)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _forget_data_sets() -> Iterator[None]:
    """What a test registers, as loading a config does; what wider fixtures registered stays."""
    before = [set(catalog) for catalog in CATALOGS]
    yield
    for catalog, names in zip(CATALOGS, before, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)
