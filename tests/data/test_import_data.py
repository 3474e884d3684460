"""Importing the data package has no effect on the catalogues and loads no model."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import axial_d2, sys
from detectron2.data import DatasetCatalog, MetadataCatalog
import detectron2.data.datasets
before = set(DatasetCatalog), set(MetadataCatalog)
loaded = set(sys.modules)
import axial_d2.data
assert before == (set(DatasetCatalog), set(MetadataCatalog))
new = {name for name in set(sys.modules) - loaded if name.startswith("axial_d2")}
layers = ("ops", "layers", "backbone", "heads", "meta_arch")
models = {name for name in new if name.split(".")[1] in layers}
assert not models, models
"""


def test_import_registers_nothing_and_loads_no_model() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
