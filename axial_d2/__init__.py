"""Axial-DeepLab and its attention backbones for Detectron2."""

from axial_d2 import compat

compat.bridge_old_detectron2()
