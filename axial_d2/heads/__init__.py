"""Heads; importing this registers them with Detectron2."""

from axial_d2.heads.panoptic import AxialDeepLabInsEmbedHead, AxialDeepLabSemSegHead

__all__ = ["AxialDeepLabInsEmbedHead", "AxialDeepLabSemSegHead"]
