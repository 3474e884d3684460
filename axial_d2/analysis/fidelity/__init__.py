"""The papers' numbers about size and cost, built and counted here."""

from axial_d2.analysis.fidelity import alternatives, axial_deeplab, deeplab2, detection, sasa
from axial_d2.analysis.fidelity.document import (
    MULTIPLY_ADD_TOLERANCE,
    PARAMETER_TOLERANCE,
    slope,
    write_document,
)
from axial_d2.analysis.fidelity.measure import Measured, measure, measure_tables
from axial_d2.analysis.fidelity.tables import PublishedModel, PublishedTable

PUBLISHED = (*axial_deeplab.TABLES, *sasa.TABLES, *detection.TABLES, *deeplab2.TABLES)
ALTERNATIVES = (*alternatives.TABLES, *detection.ALTERNATIVES)

__all__ = [
    "ALTERNATIVES",
    "MULTIPLY_ADD_TOLERANCE",
    "PARAMETER_TOLERANCE",
    "PUBLISHED",
    "Measured",
    "PublishedModel",
    "PublishedTable",
    "measure",
    "measure_tables",
    "slope",
    "write_document",
]
