"""Inputs at a ratio of the size that plain evaluation gives them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from axial_d2.data import NamingMapper
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation

Size = tuple[int, int]


class RatioResize(T.Augmentation):
    """Resizes an image to ``ratio`` times the size that another resize gives it.

    The image is interpolated once, straight from its own size, and no maximum size applies to
    the result: a maximum of ``base`` is scaled like all else. At ratio 1 the transform is that
    of ``base`` itself.

    Args:
        base: what plain evaluation does (``INPUT.MIN_SIZE_TEST``, ``INPUT.MAX_SIZE_TEST``).
        ratio: of both sides, above 0.
        min_side: the smallest side, in pixels, that a ratio below 1 may lead to.

    Raises (when called):
        ValueError: the image would have a smaller side.
    """

    def __init__(self, base: T.ResizeShortestEdge, ratio: float, min_side: int = 1):
        super().__init__()
        self.base = base
        self.ratio = ratio
        self.min_side = min_side

    def get_transform(self, image: np.ndarray) -> T.Transform:
        size = (image.shape[0], image.shape[1])
        if self.ratio == 1:
            return self.base.get_transform(image)
        new_size = self.output_size(size)
        if self.ratio < 1 and min(new_size) < self.min_side:
            raise ValueError(
                f"ratio {self.ratio:g} makes an image of {size[0]}x{size[1]} pixels (height x "
                f"width) {new_size[0]}x{new_size[1]}, less than the network's stride of "
                f"{self.min_side}; leave out this ratio, or enlarge INPUT.MIN_SIZE_TEST"
            )
        return T.ResizeTransform(*size, *new_size, self.base.interp)

    def output_size(self, size: Size) -> Size:
        """Height and width that an image of this height and width gets."""
        height, width = (int(self.ratio * side + 0.5) for side in plain_size(self.base, size))
        return height, width


def plain_size(base: T.ResizeShortestEdge, size: Size) -> Size:
    """Height and width of an image after ``base``."""
    transform = base.get_transform(np.empty(size, np.uint8))
    if isinstance(transform, T.ResizeTransform):
        return transform.new_h, transform.new_w
    return size


def plain_resize(cfg: CfgNode) -> T.ResizeShortestEdge:
    """The resize of plain evaluation."""
    (resize,) = build_augmentation(cfg, is_train=False)
    assert isinstance(resize, T.ResizeShortestEdge), resize
    return resize


def build_ratio_loader(
    cfg: CfgNode, dataset_name: str, ratio: float, min_side: int = 1
) -> Iterable[list[dict]]:
    """The loader of plain evaluation, but for the size of "image"; "height", "width" stay."""
    resize = RatioResize(plain_resize(cfg), ratio, min_side)
    mapper = DatasetMapper(cfg, is_train=False, augmentations=[resize])
    return build_detection_test_loader(cfg, dataset_name, mapper=NamingMapper(mapper))


def check_input_sizes(
    cfg: CfgNode, records: list[dict], ratios: Iterable[float], min_side: int
) -> None:
    """Raises ValueError where a ratio below 1 makes an image's side smaller than ``min_side``.

    Looks at the sizes that the data set's dicts state; :class:`RatioResize` refuses the rest.
    """
    base = plain_resize(cfg)
    files = {(r["height"], r["width"]): r["file_name"] for r in records if "height" in r}
    for ratio in sorted(ratio for ratio in ratios if ratio < 1):
        resize = RatioResize(base, ratio)
        sizes = {size: resize.output_size(size) for size in files}
        size = min(sizes, key=lambda size: min(sizes[size]), default=None)
        if size is None or min(sizes[size]) >= min_side:
            continue
        allowed = math.ceil(1000 * min_side / min(min(plain_size(base, size)) for size in files))
        raise ValueError(
            f"ratio {ratio:g} makes {files[size]} ({size[0]}x{size[1]} pixels, height x width) "
            f"{sizes[size][0]}x{sizes[size][1]}, less than the network's stride of {min_side}; "
            f"give ratios of {allowed / 1000:g} or more, or enlarge INPUT.MIN_SIZE_TEST."
        )
