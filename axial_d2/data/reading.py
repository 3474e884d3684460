"""Reads pictures and panoptic PNGs; every failure names the file."""

from __future__ import annotations

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from panopticapi.utils import rgb2id
from PIL import Image

_PANOPTIC_MODES = ("RGB", "RGBA")


class DatasetError(ValueError):
    """A file of a data set is missing, damaged or contradicts another; the message names it."""


class MissingFileError(DatasetError):
    """A picture or PNG does not exist."""


def _require_file(file_name: str, what: str) -> None:
    if not PathManager.isfile(file_name):
        raise MissingFileError(
            f"{what} {file_name} does not exist. Check the root folder that the data set was "
            "registered with; tools/check_dataset.py lists all missing files."
        )


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Reads a picture as Detectron2 does, EXIF orientation applied.

    Args:
        file_name: path, or any URI that Detectron2's ``PathManager`` knows.
        format: "BGR", "YUV-BT.601" or a mode of Pillow such as "RGB" or "L"; None keeps the
            file's own.

    Returns:
        ``[H, W, C]`` (``[H, W]`` for a grey file with ``format=None``), uint8 in [0, 255];
        float for "YUV-BT.601".

    Raises:
        MissingFileError: there is no such file.
        DatasetError: the file cannot be decoded.
    """
    _require_file(file_name, "Image")
    try:
        return detection_utils.read_image(file_name, format)
    # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error … on damage.
    except Exception as error:
        raise DatasetError(
            f"Image {file_name} cannot be decoded as {format or 'an image'} "
            f"({type(error).__name__}: {error}). Replace the file or take it out of the data set."
        ) from error


def read_panoptic_png(file_name: str) -> np.ndarray:
    """Reads a COCO-panoptic PNG.

    Args:
        file_name: path or URI of an 8-bit RGB PNG; an alpha channel is ignored.

    Returns:
        int32 ``[H, W]``, the segment id ``R + 256 G + 65536 B`` of each pixel; 0 is unlabelled.

    Raises:
        MissingFileError: there is no such file.
        DatasetError: the file cannot be decoded or is not RGB.
    """
    _require_file(file_name, "Panoptic PNG")
    try:
        with PathManager.open(file_name, "rb") as file:
            image = Image.open(file)
            mode = image.mode
            pixels = np.asarray(image)
    except Exception as error:
        raise DatasetError(
            f"Panoptic PNG {file_name} cannot be decoded ({type(error).__name__}: {error}). "
            "Replace the file or take it out of the data set."
        ) from error
    if mode not in _PANOPTIC_MODES:
        raise DatasetError(
            f"Panoptic PNG {file_name} has mode {mode}; it must be RGB, with segment ids written "
            "as R + 256 G + 65536 B (panopticapi.utils.id2rgb)."
        )
    return rgb2id(pixels)
