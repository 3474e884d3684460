"""What the command line does, without the command line."""

from __future__ import annotations

from pathlib import Path

from axial_d2.engine.scale_stress import Record, evaluate_ratios, open_record
from detectron2.config import CfgNode


def stress(cfg: CfgNode, ratios: list[float], file: Path, force: bool = False, **options) -> Record:
    record, run = open_record(cfg, file, config_file="tiny.yaml", force=force, **options)
    evaluate_ratios(cfg, record, run, ratios, file, force=force)
    return record
