"""The part of a meta-architecture that is counted, as a network from an image to tensors.

Post-processing holds no products, depends on the data and cannot run without them. A
meta-architecture in :data:`NETWORKS` is therefore counted without it, on the meta device; any
other one as a whole, on the CPU, with an image of noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from axial_d2.meta_arch import (
    AttentionRetinaNet,
    AxialDeepLab,
    ImageClassifier,
    ScaleAttentionSegmentor,
    SlidingWindowSegmentor,
)
from axial_d2.meta_arch.batching import grid_size
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import RetinaNet, SemanticSegmentor
from detectron2.projects.panoptic_deeplab import PanopticDeepLab
from detectron2.structures import Boxes, Instances, ROIMasks
from torch import Tensor, nn


class Network(nn.Module):
    """From an image [1, C, H, W] to tensors.

    Attributes:
        size_divisibility: the image has to be padded to multiples of it; 0 for any size.
    """

    size_divisibility: int = 0

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of what the network gets for an image of this size."""
        height, width = (side + -side % max(1, self.size_divisibility) for side in size)
        return height, width


class PanopticNetwork(Network):
    """Backbone and both heads of (Axial-)DeepLab, up to the maps at their common stride."""

    def __init__(self, model: Any):
        super().__init__()
        self.backbone = model.backbone
        self.sem_seg_head = model.sem_seg_head
        self.ins_embed_head = model.ins_embed_head
        self.size_divisibility = max(model.size_divisibility, model.backbone.size_divisibility)
        self.grid_step = getattr(model, "grid_step", 0)

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        if not self.grid_step:
            return super().padded_size(size)
        height, width = grid_size([torch.empty(size, device="meta")], self.grid_step)
        return height, width

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(image)
        return self.sem_seg_head.layers(features), *self.ins_embed_head.layers(features)


class SemanticNetwork(Network):
    """Backbone and head of Detectron2's semantic segmentor."""

    def __init__(self, model: Any):
        super().__init__()
        self.backbone = model.backbone
        self.sem_seg_head = model.sem_seg_head
        self.size_divisibility = model.backbone.size_divisibility

    def forward(self, image: Tensor) -> Tensor:
        features = self.backbone(image)
        return self.sem_seg_head(features)[0]


class ScaleNetwork(Network):
    """All scales of an Attention-to-Scale model, up to the merged scores at the head's stride."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = [model]  # whose parts have the model's names below
        self.backbone = model.backbone
        self.sem_seg_head = model.sem_seg_head
        self.attention = model.attention
        self.size_divisibility = model.backbone.size_divisibility

    def forward(self, image: Tensor) -> Tensor:
        (model,) = self.model
        return model.merge(model.scale_maps(image, model.test_scales)).scores


class ClassifierNetwork(Network):
    """Backbone and linear layer of an image classifier."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = [model]  # whose parts have the model's names below
        self.backbone = model.backbone
        self.linear = model.linear
        self.size_divisibility = model.backbone.size_divisibility

    def forward(self, image: Tensor) -> Tensor:
        return self.model[0].logits(image)


class RetinaNetNetwork(Network):
    """Backbone with pyramid and the head on each of its levels."""

    def __init__(self, model: Any):
        super().__init__()
        self.backbone = model.backbone
        self.head = model.head
        self.in_features = model.head_in_features
        self.size_divisibility = model.backbone.size_divisibility

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(image)
        logits, deltas = self.head([features[name] for name in self.in_features])
        return *logits, *deltas


class WholeModel(Network):
    """A model with all that it does to an image, padding included; its outputs flattened.

    Detectron2's own ``TracingAdapter`` does the same, but 0.6 imports it together with Caffe2.

    Args:
        model: takes Detectron2's list of dicts, or a tensor [1, C, H, W].
        takes_dicts: which of them.
    """

    def __init__(self, model: nn.Module, takes_dicts: bool):
        super().__init__()
        self.model = model
        self.takes_dicts = takes_dicts

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model([{"image": image[0]}] if self.takes_dicts else image)
        return tuple(_tensors(outputs))


# A new meta-architecture gets a row here, to be counted without memory and post-processing.
NETWORKS: dict[type[nn.Module], Callable[[Any], Network]] = {
    AxialDeepLab: PanopticNetwork,
    ImageClassifier: ClassifierNetwork,
    PanopticDeepLab: PanopticNetwork,
    SemanticSegmentor: SemanticNetwork,
    SlidingWindowSegmentor: SemanticNetwork,
    ScaleAttentionSegmentor: ScaleNetwork,
    RetinaNet: RetinaNetNetwork,
    AttentionRetinaNet: RetinaNetNetwork,
}


def is_meta_architecture(kind: type[nn.Module]) -> bool:
    """Whether models of this class take Detectron2's list of dicts."""
    return any(registered is kind for _, registered in META_ARCH_REGISTRY)


def needs_data(kind: type[nn.Module]) -> bool:
    """Whether models of this class are counted with real numbers, since no network is known."""
    return is_meta_architecture(kind) and kind not in NETWORKS


def network_of(model: nn.Module) -> Network:
    """What is counted of a model; see :func:`name_in_model` for the names inside it."""
    kind = type(model)
    if kind in NETWORKS:
        return NETWORKS[kind](model)
    return WholeModel(model, takes_dicts=is_meta_architecture(kind))


def name_in_model(network: nn.Module, name: str) -> str:
    """The name that a module of the network has in the model itself."""
    return name.removeprefix("model").lstrip(".") if isinstance(network, WholeModel) else name


def _tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in what a model returns."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _tensors(part)
    elif isinstance(output, Instances):
        yield from _tensors(output.get_fields())
    elif isinstance(output, (Boxes, ROIMasks)):
        yield output.tensor
