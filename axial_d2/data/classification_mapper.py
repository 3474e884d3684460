"""From an image and its class to what a classifier takes, with torchvision's transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from axial_d2.data.reading import DatasetError, read_image
from detectron2.config import CfgNode, configurable
from torch import Tensor
from torchvision.transforms import v2

_FLIPS = {"horizontal": v2.RandomHorizontalFlip, "vertical": v2.RandomVerticalFlip, "none": None}
_FORMATS = ("BGR", "RGB")
MAX_MAGNITUDE = 30  # RandAugment's bins run from 0 to this one


class ClassificationMapper:
    """Crops, resizes and augments an image; all results of one mapper have the same size.

    In training a random part of the image is brought to ``crop_size``, mirrored with probability
    ½ and changed by RandAugment (Cubuk et al., 2020); at test the image is brought to
    ``test_size`` and its centre cut out, the same every time. Files in grey, CMYK or with a
    palette become RGB, and EXIF orientation is applied, as Detectron2 does. Random numbers are
    PyTorch's.

    Args:
        is_train: whether to augment.
        image_format: "BGR" or "RGB", the order of the channels.
        crop_size: height and width of the result in pixels, 1 or more.
        scale: least and greatest share of the image's area that a training crop has, above 0 to 1.
        ratio: least and greatest width / height of the part that is cropped, above 0.
        flip: "horizontal", "vertical" or "none"; training only.
        randaugment_ops: operations an image, one after the other; 0 for none. Training only.
        randaugment_magnitude: of the operations, 0 to 30.
        test_size: shorter edge in pixels before the centre is cut out at test, ``crop_size`` or
            more; 0 keeps the image's own size.

    Raises:
        ValueError: an argument is out of range; the message names its config key.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        image_format: str = "BGR",
        crop_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: str = "horizontal",
        randaugment_ops: int = 0,
        randaugment_magnitude: int = 9,
        test_size: int = 256,
    ):
        _require(image_format in _FORMATS, "INPUT.FORMAT", image_format, f"one of {_FORMATS}")
        _require(crop_size >= 1, "INPUT.CLASSIFICATION.CROP_SIZE", crop_size, "1 or more")
        self.is_train = is_train
        self.image_format = image_format
        self.crop_size = crop_size
        self.test_size = test_size
        # Both are made, so that a value that is out of range shows before training is over.
        training = _training_transforms(
            crop_size, tuple(scale), tuple(ratio), flip, randaugment_ops, randaugment_magnitude
        )
        test = _test_transforms(crop_size, test_size)
        self.transforms = training if is_train else test

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        node = cfg.INPUT.CLASSIFICATION
        return {
            "is_train": is_train,
            "image_format": cfg.INPUT.FORMAT,
            "crop_size": node.CROP_SIZE,
            "scale": node.SCALE,
            "ratio": node.RATIO,
            "flip": cfg.INPUT.RANDOM_FLIP,
            "randaugment_ops": node.RANDAUGMENT_OPS,
            "randaugment_magnitude": node.RANDAUGMENT_MAGNITUDE,
            "test_size": node.TEST_SIZE,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads an image.

        Args:
            dataset_dict: with ``file_name``; :mod:`axial_d2.data.image_folder` has the other keys.

        Returns:
            A copy with ``image``, uint8 ``[3, crop_size, crop_size]`` in ``image_format``.

        Raises:
            DatasetError: the file is missing, cannot be decoded or is too small to be cropped.
        """
        file_name = dataset_dict["file_name"]
        pixels = read_image(file_name, "RGB")  # the order that RandAugment's colours need
        self._check_size(file_name, pixels)
        image: Tensor = self.transforms(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        if self.image_format == "BGR":
            image = image.flip(0)
        return {**dataset_dict, "image": image}

    def _check_size(self, file_name: str, pixels: np.ndarray) -> None:
        height, width = pixels.shape[:2]
        if not self.is_train and self.test_size == 0 and min(height, width) < self.crop_size:
            raise DatasetError(
                f"Image {file_name} is {height}x{width} pixels (height x width), smaller than the "
                f"crop of INPUT.CLASSIFICATION.CROP_SIZE {self.crop_size}; set "
                f"INPUT.CLASSIFICATION.TEST_SIZE to {self.crop_size} or more, to which the "
                "shorter edge is resized, instead of 0."
            )


def _require(holds: bool, key: str, value: Any, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{key} is {value!r}; it must be {allowed}.")


def _training_transforms(
    crop_size: int,
    scale: tuple[float, ...],
    ratio: tuple[float, ...],
    flip: str,
    operations: int,
    magnitude: int,
) -> v2.Transform:
    node = "INPUT.CLASSIFICATION"
    in_order = len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1
    _require(in_order, f"{node}.SCALE", scale, "two numbers above 0, up to 1, in ascending order")
    in_order = len(ratio) == 2 and 0 < ratio[0] <= ratio[1]
    _require(in_order, f"{node}.RATIO", ratio, "two numbers above 0 in ascending order")
    _require(flip in _FLIPS, "INPUT.RANDOM_FLIP", flip, f"one of {tuple(_FLIPS)}")
    _require(operations >= 0, f"{node}.RANDAUGMENT_OPS", operations, "0 (off) or more")
    in_range = 0 <= magnitude <= MAX_MAGNITUDE
    _require(in_range, f"{node}.RANDAUGMENT_MAGNITUDE", magnitude, f"0 to {MAX_MAGNITUDE}")

    chosen: list[v2.Transform] = [
        v2.RandomResizedCrop(crop_size, scale=scale, ratio=ratio, antialias=True)
    ]
    mirror = _FLIPS[flip]
    if mirror is not None:
        chosen.append(mirror())
    if operations:
        chosen.append(v2.RandAugment(operations, magnitude, MAX_MAGNITUDE + 1))
    return v2.Compose(chosen)


def _test_transforms(crop_size: int, test_size: int) -> v2.Transform:
    _require(
        test_size == 0 or test_size >= crop_size,
        "INPUT.CLASSIFICATION.TEST_SIZE",
        test_size,
        f"0 (as it is) or at least CROP_SIZE, {crop_size}",
    )
    resize = [v2.Resize(test_size, antialias=True)] if test_size else []
    return v2.Compose([*resize, v2.CenterCrop(crop_size)])
