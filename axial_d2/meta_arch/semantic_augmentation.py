"""Multi-scale and flipped inference of semantic segmentors, by ``TEST.AUG``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from axial_d2.meta_arch.augmentation_mappers import (
    Mapper,
    is_mirrored,
    mapper_input,
    scale_mappers,
)
from detectron2.config import CfgNode, configurable
from detectron2.modeling.meta_arch import SemanticSegmentor
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class SemanticSegmentorWithTTA(nn.Module):
    """A semantic segmentor that looks at an image at several scales, and mirrored.

    The class probabilities, in the size of the output and mirrored back where need be, are
    averaged with equal weights. ``forward`` takes what the segmentor takes in inference and
    returns "sem_seg" [num_classes, height, width] for each image, probabilities, without
    gradients. One image at one scale is in memory at a time, and a sum.

    With the cfg of a model: ``SemanticSegmentorWithTTA(cfg, model)``.

    Args:
        model: Detectron2's ``SemanticSegmentor`` or one of ours, which are built on it; one in
            DistributedDataParallel is taken out of it.
        mappers: one for each scale, as :class:`.AxialDeepLabWithTTA` takes them.

    Raises:
        ValueError: no mapper, or another kind of model.
    """

    @configurable
    def __init__(self, *, model: nn.Module, mappers: Sequence[Mapper]):
        super().__init__()
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if not isinstance(model, SemanticSegmentor):
            raise ValueError(
                "SemanticSegmentorWithTTA is for semantic segmentors; given a "
                f"{type(model).__name__}."
            )
        if not mappers:
            raise ValueError("SemanticSegmentorWithTTA needs a mapper for at least one scale.")
        self.model = model
        self.mappers = tuple(mappers)
        self.train(model.training)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict:
        return {"model": model, "mappers": scale_mappers(cfg)}

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        if self.model.training:
            raise ValueError("SemanticSegmentorWithTTA does not train; call its eval() first.")
        return [{"sem_seg": self._average(inputs)} for inputs in batched_inputs]

    def _average(self, inputs: dict) -> Tensor:
        total, count = None, 0
        for mapper in self.mappers:
            for version in mapper(mapper_input(inputs)):
                probabilities = self._probabilities(version)
                total = probabilities if total is None else total.add_(probabilities)
                count += 1
        assert total is not None
        return total.div_(count)

    def _probabilities(self, version: dict) -> Tensor:
        scores = self.model([version])[0]["sem_seg"]
        if is_mirrored(version):
            scores = scores.flip(-1)
        return scores.softmax(dim=0)
