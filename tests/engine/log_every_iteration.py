"""Runs ``tools/train_net.py`` with the arguments given, writing metrics after every iteration."""

from __future__ import annotations

import runpy
from pathlib import Path

import axial_d2  # noqa: F401  bridges an old Detectron2, so it comes before the rest
from detectron2.engine import hooks


class WriteAlways(hooks.PeriodicWriter):
    def __init__(self, writers: list, period: int = 20):
        super().__init__(writers, period=1)


if __name__ == "__main__":
    hooks.PeriodicWriter = WriteAlways
    tool = Path(__file__).parents[2] / "tools" / "train_net.py"
    runpy.run_path(str(tool), run_name="__main__")
