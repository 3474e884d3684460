"""Demo data: scenes drawn at random, whose classes are shapes and textures rather than colours."""

from axial_d2.data.synthetic.image_folder import make_demo_image_folder
from axial_d2.data.synthetic.writer import SPLITS, SplitPaths, make_demo_dataset

__all__ = ["SPLITS", "SplitPaths", "make_demo_dataset", "make_demo_image_folder"]
