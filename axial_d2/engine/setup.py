"""From a command line to a frozen config with its data sets registered."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from axial_d2.config import add_axial_deeplab_config
from axial_d2.data import (
    register_image_folder,
    register_known_datasets,
    register_panoptic_dataset,
)
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

DEMO = "axial_d2_demo"  # how the names of the demo's data sets begin
# KEY VALUE pairs after which a config wants no files of data sets.
WITHOUT_FILES = ("DATASETS.PANOPTIC", "[]", "DATASETS.IMAGE_FOLDERS", "[]")


def load_config(config_file: str, opts: list[str] | tuple[str, ...] = ()) -> CfgNode:
    """A config from a file and KEY VALUE pairs; its data sets get registered.

    Raises:
        What :func:`read_config` and :func:`register_datasets` do.
    """
    cfg = read_config(config_file, opts)
    register_datasets(cfg)
    return cfg


def read_config(config_file: str, opts: list[str] | tuple[str, ...] = ()) -> CfgNode:
    """A config from a file and KEY VALUE pairs, whose data sets need not be there.

    Where no GPU is at hand, ``MODEL.DEVICE`` cuda becomes cpu, with a log line.

    Raises:
        FileNotFoundError: there is no such config file.
        ValueError: a key that does not exist, or a value of the wrong type.
    """
    cfg = get_cfg()
    add_axial_deeplab_config(cfg)
    if config_file:
        if "://" not in config_file and not os.path.isfile(config_file):
            raise FileNotFoundError(
                f"--config-file {config_file} does not exist; configs/README.md lists the configs."
            )
        _merge(f"--config-file {config_file}", cfg.merge_from_file, config_file)
    _merge(f"the options {' '.join(map(str, opts))}", cfg.merge_from_list, list(opts))
    if torch.device(cfg.MODEL.DEVICE).type == "cuda" and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("no GPU at hand: MODEL.DEVICE cuda becomes cpu")
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def register_datasets(cfg: CfgNode) -> None:
    """Registers the data sets that a config names.

    Those of ``DATASETS.PANOPTIC`` and ``DATASETS.IMAGE_FOLDERS``, and what else it names of
    :data:`axial_d2.data.KNOWN_DATASETS`, of which one whose files are missing fails when it is
    used.

    Raises:
        FileNotFoundError: files of an entry of the two lists do not exist.
        ValueError: a malformed entry of them.
    """
    for entry in cfg.DATASETS.PANOPTIC:
        if len(entry) != 4:
            raise ValueError(
                f"DATASETS.PANOPTIC has the entry {entry}; each must be [name, image folder, "
                "panoptic PNG folder, panoptic JSON]."
            )
        try:
            register_panoptic_dataset(*entry)
        except FileNotFoundError as error:
            if not str(entry[0]).startswith(DEMO):
                raise
            raise FileNotFoundError(
                f"{error} The demo's data set is drawn by: tools/make_demo_dataset.py --output "
                "output/demo/dataset"
            ) from error
    for entry in cfg.DATASETS.IMAGE_FOLDERS:
        if len(entry) != 2:
            raise ValueError(
                f"DATASETS.IMAGE_FOLDERS has the entry {entry}; each must be [name, folder that "
                "holds one folder a class]."
            )
        register_image_folder(*entry)
    register_known_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))


def _merge(source: str, merge: Callable[[Any], None], argument: Any) -> None:
    try:
        merge(argument)
    except (KeyError, AssertionError, ValueError) as error:  # yacs raises any of these
        reason = str(error.args[0] if error.args else error)
        raise ValueError(
            f"{source}: {reason}. configs/README.md lists the keys that axial_d2 adds; all "
            "others are Detectron2's."
        ) from error


def setup(args: argparse.Namespace) -> CfgNode:
    """The config of a command line like Detectron2's, frozen; logging and seeds are set up."""
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="axial_d2")
    return cfg
