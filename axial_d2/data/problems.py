"""The kinds of defects that the validator tells apart."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ProblemKind(str, Enum):
    """A kind of defect; its value is what the command line prints."""

    MALFORMED_JSON = "malformed JSON"
    EMPTY_DATASET = "empty data set"
    MISSING_KEY = "missing key"
    INVALID_VALUE = "invalid value"
    MISSING_ISTHING = "isthing missing"
    DUPLICATE_ID = "duplicate id"
    UNKNOWN_CATEGORY = "unknown category"
    ANNOTATION_WITHOUT_IMAGE = "annotation without image"
    IMAGE_WITHOUT_ANNOTATION = "image without annotation"
    TOO_MANY_INSTANCES = "more instances than the label divisor holds"
    SAME_FILE_NAME = "images whose predictions get one file name"
    CLASS_WITHOUT_IMAGE = "class without image"
    MISSING_IMAGE = "missing image"
    MISSING_PNG = "missing panoptic PNG"
    DAMAGED_IMAGE = "image that cannot be decoded"
    DAMAGED_PNG = "panoptic PNG that cannot be decoded"
    IMAGE_SIZE = "image of another size than the JSON says"
    PNG_SIZE = "panoptic PNG of another size than the JSON says"
    SEGMENT_NOT_IN_PNG = "segment id that the PNG lacks"
    SEGMENT_NOT_IN_JSON = "segment id that the JSON lacks"
    AREA = "area that disagrees"
    BBOX = "bbox that disagrees"


@dataclass(frozen=True)
class Problem:
    """One defect of a data set.

    Attributes:
        kind: what sort of defect.
        file: the file to repair.
        message: what was found and what was expected.
    """

    kind: ProblemKind
    file: str
    message: str
