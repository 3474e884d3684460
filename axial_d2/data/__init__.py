"""Data sets: registration, reading, validation and the demo data. Imports no model."""

from axial_d2.data.demo import register_demo_dataset
from axial_d2.data.mapper import NamingMapper, PanopticMapper
from axial_d2.data.panoptic import register_panoptic_dataset
from axial_d2.data.problems import Problem, ProblemKind
from axial_d2.data.reading import DatasetError, read_image, read_panoptic_png
from axial_d2.data.synthetic import make_demo_dataset
from axial_d2.data.validation import check_panoptic_dataset

__all__ = [
    "DatasetError",
    "NamingMapper",
    "PanopticMapper",
    "Problem",
    "ProblemKind",
    "check_panoptic_dataset",
    "make_demo_dataset",
    "read_image",
    "read_panoptic_png",
    "register_demo_dataset",
    "register_panoptic_dataset",
]
