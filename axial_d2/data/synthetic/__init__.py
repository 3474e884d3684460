"""Demo data: scenes drawn at random, whose classes are shapes and textures rather than colours."""

from axial_d2.data.synthetic.writer import SPLITS, SplitPaths, make_demo_dataset

__all__ = ["SPLITS", "SplitPaths", "make_demo_dataset"]
