"""Config keys of axial_d2, with units, ranges and the paper's defaults."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config


def add_axial_resnet_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.AXIAL_RESNET``; :class:`axial_d2.backbone.AxialResNet` documents the values."""
    node = cfg.MODEL.AXIAL_RESNET = CfgNode()
    # Layers: 50 or 26.
    node.DEPTH = 50
    # Of every channel: 0.5 S, 0.75 M, 1.0 L, 2.0 XL, or any other number above 0.
    node.WIDTH_MULTIPLIER = 0.5
    # conv7, deeplab, inception or axial.
    node.STEM = "deeplab"
    # Of the stem's channels; 0 follows WIDTH_MULTIPLIER.
    node.STEM_WIDTH_MULTIPLIER = 0.0
    # subsample or avg_pool.
    node.STRIDING = "subsample"
    # One of axial, conv for each of res2 ... res5.
    node.STAGE_TYPES = ["axial", "axial", "axial", "axial"]
    node.NUM_HEADS = 8
    # Positions a query attends to: odd, or 0 for its whole row or column.
    node.SPAN = 0
    # Position tables have 2 * MAX_SPAN - 1 rows; positions beyond share the last one.
    node.MAX_SPAN = 255
    # 8, 16 (segmentation) or 32 (classification, FPN).
    node.OUTPUT_STRIDE = 16
    # Some of stem, res2, res3, res4, res5.
    node.OUT_FEATURES = ["res2", "res3", "res5"]
    # BN, SyncBN, naiveSyncBN or FrozenBN; also used inside attention.
    node.NORM = "SyncBN"
    # auto, reference or blocked.
    node.ATTENTION_IMPL = "auto"


def add_axial_deeplab_config(cfg: CfgNode) -> None:
    """Adds every key that axial_d2 reads, in place.

    Includes Detectron2's own Panoptic-DeepLab and DeepLab keys, with this project's heads as
    their defaults.
    """
    add_panoptic_deeplab_config(cfg)
    add_axial_resnet_config(cfg)
    cfg.MODEL.INS_EMBED_HEAD.NAME = "AxialDeepLabInsEmbedHead"
    # What stands between the backbone and each decoder: none, projection (1x1 convolution to
    # ASPP_CHANNELS) or aspp.
    cfg.MODEL.SEM_SEG_HEAD.DECODER_INPUT = "none"
    cfg.MODEL.INS_EMBED_HEAD.DECODER_INPUT = "none"
    # Data sets to register before training: [name, image folder, panoptic PNG folder, panoptic
    # JSON] each; axial_d2.data.register_panoptic_dataset does the same from Python.
    cfg.DATASETS.PANOPTIC = []
