"""Heads; importing this registers them with Detectron2."""

from axial_d2.heads.dual_attention import DualAttentionHead
from axial_d2.heads.panoptic import AxialDeepLabInsEmbedHead, AxialDeepLabSemSegHead
from axial_d2.heads.retinanet import AttentionRetinaNetHead
from axial_d2.heads.semantic import LinearSemSegHead

__all__ = [
    "AttentionRetinaNetHead",
    "AxialDeepLabInsEmbedHead",
    "AxialDeepLabSemSegHead",
    "DualAttentionHead",
    "LinearSemSegHead",
]
