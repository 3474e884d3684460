"""Axial-DeepLab and its attention backbones for Detectron2.

Importing this registers the components (backbones, heads, meta-architectures) and no data set.
"""

from axial_d2 import compat

compat.bridge_old_detectron2()

from axial_d2 import backbone, heads, meta_arch  # noqa: E402
from axial_d2.config import add_axial_deeplab_config  # noqa: E402

__version__ = "0.1.0"

__all__ = ["add_axial_deeplab_config", "backbone", "heads", "meta_arch"]
