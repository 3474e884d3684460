"""Meta-architectures; importing this registers them with Detectron2."""

from axial_d2.meta_arch.axial_deeplab import AxialDeepLab

__all__ = ["AxialDeepLab"]
