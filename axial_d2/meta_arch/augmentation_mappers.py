"""What resizes and mirrors an image for test-time augmentation, by ``TEST.AUG``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

from axial_d2.meta_arch.axial_deeplab import output_size
from detectron2.config import CfgNode
from detectron2.data.transforms import HFlipTransform
from detectron2.modeling import DatasetMapperTTA

Mapper = Callable[[dict], list[dict]]


class RatioMapperTTA(DatasetMapperTTA):
    """Detectron2's ``DatasetMapperTTA``, with sizes relative to the image that it is given.

    The shorter edge is rounded to whole pixels, at least one, and the aspect ratio kept. There is
    no largest size.

    Args:
        scales: numbers above 0; at 1.0 the image stays what it is.
        flip: whether each size comes mirrored from left to right as well.
    """

    def __init__(self, scales: Sequence[float], flip: bool):
        self.scales = tuple(scales)
        self.flip = flip

    def __call__(self, dataset_dict: dict) -> list[dict]:
        edge = min(dataset_dict["image"].shape[-2:])
        edges = [max(1, int(scale * edge + 0.5)) for scale in self.scales]
        return DatasetMapperTTA(edges, sys.maxsize, self.flip)(dataset_dict)


def scale_mappers(cfg: CfgNode) -> list[Mapper]:
    """A mapper for each of ``TEST.AUG.SCALES``, or if there are none, ``TEST.AUG.MIN_SIZES``.

    Raises:
        ValueError: neither has an entry, or one that is no size.
    """
    node = cfg.TEST.AUG
    for scale in node.SCALES:
        if not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise ValueError(
                f"TEST.AUG.SCALES {tuple(node.SCALES)} contains {scale!r}; scales are numbers "
                "above 0, ratios of the plain test size, such as (0.5, 1.0, 2.0)."
            )
    if node.SCALES:
        return [RatioMapperTTA([scale], node.FLIP) for scale in node.SCALES]
    whole = all(isinstance(size, int) and size >= 0 for size in node.MIN_SIZES)
    if not node.MIN_SIZES or not whole:
        raise ValueError(
            f"TEST.AUG.SCALES is empty and TEST.AUG.MIN_SIZES is {tuple(node.MIN_SIZES)}; give "
            "SCALES, ratios of the plain test size, or MIN_SIZES, whole lengths of the shorter "
            "edge in pixels (0: as it is)."
        )
    return [DatasetMapperTTA([size], node.MAX_SIZE, node.FLIP) for size in node.MIN_SIZES]


def is_mirrored(inputs: dict) -> bool:
    """Whether a mapper mirrored this input from left to right."""
    return any(isinstance(step, HFlipTransform) for step in inputs["transforms"].transforms)


def mapper_input(inputs: dict) -> dict:
    """What mappers read, and the size of the output said, for images of every size alike."""
    height, width = output_size(inputs)
    return {"image": inputs["image"].cpu(), "height": height, "width": width}
