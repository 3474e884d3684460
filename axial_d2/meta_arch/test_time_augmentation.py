"""Multi-scale and flipped inference, by ``TEST.AUG``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from axial_d2.meta_arch.augmentation_mappers import (
    Mapper,
    RatioMapperTTA,
    is_mirrored,
    mapper_input,
    scale_mappers,
)
from axial_d2.meta_arch.axial_deeplab import AxialDeepLab, OutputMaps
from axial_d2.meta_arch.semantic_augmentation import SemanticSegmentorWithTTA
from detectron2.config import CfgNode, configurable
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class AxialDeepLabWithTTA(nn.Module):
    """An :class:`AxialDeepLab` that looks at an image at several scales, and mirrored.

    Semantic probabilities, centre heat-maps and offsets are brought to the size of the output,
    those of a mirrored image mirrored back, and averaged with equal weights; the segments come
    from the averages. ``forward`` takes and returns what :class:`AxialDeepLab` does in inference,
    without gradients. Memory does not grow with the number of scales: one scale at a time runs,
    and its maps are added to a sum.

    With the cfg of a model: ``AxialDeepLabWithTTA(cfg, model)``.

    Args:
        model: whose weights are used; one in DistributedDataParallel is taken out of it.
        mappers: one for each scale, such as Detectron2's ``DatasetMapperTTA`` with a single size;
            they resize an image and may mirror it from left to right, and do nothing else.

    Raises:
        ValueError: no mapper, or another kind of model.
    """

    @configurable
    def __init__(self, *, model: nn.Module, mappers: Sequence[Mapper]):
        super().__init__()
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if not isinstance(model, AxialDeepLab):
            raise ValueError(
                f"AxialDeepLabWithTTA is for AxialDeepLab models; given a {type(model).__name__}."
            )
        if not mappers:
            raise ValueError("AxialDeepLabWithTTA needs a mapper for at least one scale.")
        self.model: AxialDeepLab = model
        self.mappers = tuple(mappers)
        self.train(model.training)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict:
        return {"model": model, "mappers": scale_mappers(cfg)}

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        if self.model.training:
            raise ValueError("AxialDeepLabWithTTA does not train; call its eval() first.")
        return self.model.segment(batched_inputs, self._averaged_maps)

    def _averaged_maps(self, batched_inputs: list[dict]) -> list[OutputMaps]:
        """Of images of one size."""
        return _average([partial(self._maps_at, mapper, batched_inputs) for mapper in self.mappers])

    def _maps_at(self, mapper: Mapper, batched_inputs: list[dict]) -> list[OutputMaps]:
        """Averages over the mirrored images and the others, at one scale."""
        # On its own, an image and its mirror image add up to the same sum as the other way round.
        versions = zip(*(mapper(mapper_input(inputs)) for inputs in batched_inputs), strict=True)
        return _average([partial(self._aligned_maps, list(version)) for version in versions])

    def _aligned_maps(self, batched_inputs: list[dict]) -> Iterator[OutputMaps]:
        maps = self.model.output_maps(batched_inputs)
        return map(_mirrored, maps) if is_mirrored(batched_inputs[0]) else maps


def _average(predictions: Sequence[Callable[[], Iterable[OutputMaps]]]) -> list[OutputMaps]:
    """Mean of the maps of each image; a prediction is made when those before are summed up."""
    sums = list(predictions[0]())
    for predict in predictions[1:]:
        _add(sums, predict())
    for maps in sums:
        for tensor in maps:
            tensor /= len(predictions)
    return sums


def _add(sums: list[OutputMaps], summands: Iterable[OutputMaps]) -> None:
    for maps, summand in zip(sums, summands, strict=True):
        for tensor, other in zip(maps, summand, strict=True):
            tensor += other


def _mirrored(maps: OutputMaps) -> OutputMaps:
    """Maps of the image mirrored from left to right: what points left points right."""
    probabilities, heatmap, offsets = (tensor.flip(-1) for tensor in maps)
    offsets[1].neg_()
    return OutputMaps(probabilities, heatmap, offsets)


def _rcnn_with_tta(cfg: CfgNode, model: nn.Module) -> nn.Module:
    scales = cfg.TEST.AUG.SCALES
    mapper = RatioMapperTTA(scales, cfg.TEST.AUG.FLIP) if scales else DatasetMapperTTA(cfg)
    return GeneralizedRCNNWithTTA(cfg, model, mapper)


# Meta-architecture → what gives a model of it test-time augmentation.
WITH_TTA: dict[str, Callable[[CfgNode, nn.Module], nn.Module]] = {
    "AxialDeepLab": AxialDeepLabWithTTA,
    "GeneralizedRCNN": _rcnn_with_tta,
    "SemanticSegmentor": SemanticSegmentorWithTTA,
    "SlidingWindowSegmentor": SemanticSegmentorWithTTA,
    "ScaleAttentionSegmentor": SemanticSegmentorWithTTA,
}


def check_test_time_augmentation(cfg: CfgNode) -> None:
    """Raises ValueError where the model or the sizes do not allow ``TEST.AUG``."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in WITH_TTA:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {architecture!r} has no test-time augmentation, which only "
            f"{tuple(WITH_TTA)} have; set TEST.AUG.ENABLED False."
        )
    if architecture == "GeneralizedRCNN":
        for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
            if cfg.MODEL[key]:
                raise ValueError(
                    f"MODEL.{key} is True, which Detectron2's test-time augmentation cannot do; "
                    "set TEST.AUG.ENABLED False."
                )
    scale_mappers(cfg)  # for its errors


def with_test_time_augmentation(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model as ``TEST.AUG`` wants it, whether or not that is enabled; in the same mode.

    Raises:
        ValueError: as :func:`check_test_time_augmentation` says.
    """
    check_test_time_augmentation(cfg)
    augmented = WITH_TTA[cfg.MODEL.META_ARCHITECTURE](cfg, model)
    # Detectron2's evaluation restores the mode it finds, and a new module is in training mode.
    return augmented.train(model.training)
