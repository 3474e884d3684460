"""Data sets: registration, reading, validation and the demo data. Imports no model."""

from axial_d2.data.classification_mapper import ClassificationMapper
from axial_d2.data.demo import register_demo_dataset
from axial_d2.data.image_folder import register_image_folder
from axial_d2.data.image_folder_check import check_image_folder
from axial_d2.data.known import KNOWN_DATASETS, register_known_datasets
from axial_d2.data.mapillary import register_mapillary_vistas
from axial_d2.data.mapillary_check import check_mapillary_split
from axial_d2.data.mapillary_prepare import prepare_mapillary_split
from axial_d2.data.mapper import NamingMapper, PanopticMapper
from axial_d2.data.panoptic import register_panoptic_dataset
from axial_d2.data.problems import Problem, ProblemKind
from axial_d2.data.reading import DatasetError, read_image, read_panoptic_png
from axial_d2.data.synthetic import make_demo_dataset, make_demo_image_folder
from axial_d2.data.validation import check_panoptic_dataset

__all__ = [
    "KNOWN_DATASETS",
    "ClassificationMapper",
    "DatasetError",
    "NamingMapper",
    "PanopticMapper",
    "Problem",
    "ProblemKind",
    "check_image_folder",
    "check_mapillary_split",
    "check_panoptic_dataset",
    "make_demo_dataset",
    "make_demo_image_folder",
    "prepare_mapillary_split",
    "read_image",
    "read_panoptic_png",
    "register_demo_dataset",
    "register_image_folder",
    "register_known_datasets",
    "register_mapillary_vistas",
    "register_panoptic_dataset",
]
