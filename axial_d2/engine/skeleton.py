"""Models without numbers or data sets, for those who need names and shapes alone."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

_STAND_IN = "axial_d2_skeleton_stand_in"


def build_without_data(cfg: CfgNode, device: str = "meta") -> nn.Module:
    """The model of a config, although its data sets need not exist.

    Args:
        cfg: left as it is.
        device: default "meta", where no size takes memory or time.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    # Models ask for the ids of things, which are no parameters.
    cfg.DATASETS.TRAIN = (_STAND_IN,)
    MetadataCatalog.get(_STAND_IN).set(thing_dataset_id_to_contiguous_id={1: 0})
    try:
        with torch.device(device):
            return build_model(cfg)
    finally:
        MetadataCatalog.remove(_STAND_IN)
