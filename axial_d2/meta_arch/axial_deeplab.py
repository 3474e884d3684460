"""Axial-DeepLab: panoptic segmentation from semantic classes, centres and offsets."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from axial_d2.meta_arch.batching import grid_size, indices_by_size, stack_padded
from axial_d2.postprocessing import panoptic_segments, resize_predictions, to_instances
from axial_d2.postprocessing.resize import (
    resize_aligned,
    resize_offsets,
    resize_offsets_aligned,
)
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.modeling.backbone import Backbone
from detectron2.projects.panoptic_deeplab import build_ins_embed_branch
from detectron2.structures import ImageList
from torch import Tensor, nn


class OutputMaps(NamedTuple):
    """What the network predicts for one image, brought to the size of the output.

    * probabilities: [num_classes, height, width], semantic; they sum to 1.
    * heatmap: [height, width], of instance centres.
    * offsets: [2, height, width] as (y, x), in output pixels, from a pixel to its centre.
    """

    probabilities: Tensor
    heatmap: Tensor
    offsets: Tensor


@META_ARCH_REGISTRY.register()
class AxialDeepLab(nn.Module):
    """Axial-DeepLab (ECCV 2020) on any Detectron2 backbone.

    A semantic branch classifies every pixel; an instance branch predicts a heat-map of instance
    centres and, for every pixel, the offset to its centre. Post-processing groups thing pixels
    by the centre they point to and lets them vote for a class.

    ``forward`` takes Detectron2's list of dicts. Each has "image" [C, H, W], in
    ``INPUT.FORMAT`` order, values 0 … 255; in inference optionally "height" and "width" of the
    output; in training the targets of
    ``detectron2.projects.panoptic_deeplab.PanopticDeepLabTargetGenerator``: "sem_seg" [H, W],
    "sem_seg_weights" [H, W], "center" [H, W], "center_weights" [1, H, W], "offset" [2, H, W],
    "offset_weights" [1, H, W].

    Returns in training a dict of scalar losses, in inference one dict for each image:

    * "panoptic_seg": ([height, width] int32 of segment ids with 0 for void, ``segments_info``
      with id, category_id, isthing, score and area);
    * "sem_seg": [num_classes, height, width], probabilities;
    * "instances": the thing segments, always present, see
      :func:`axial_d2.postprocessing.to_instances`.

    In inference, images of one size share a batch and others are run apart, so that the result
    for an image does not depend on its company.

    Args:
        backbone: gives the features that both heads want.
        sem_seg_head: with ``layers``, ``losses`` and ``common_stride`` as Detectron2's
            Panoptic-DeepLab head has them.
        ins_embed_head: likewise, with ``center_losses`` and ``offset_losses``.
        pixel_mean, pixel_std: of each channel of the image.
        thing_classes: contiguous ids of the thing classes.
        stuff_area, center_threshold, nms_kernel, top_k: of
            :func:`axial_d2.postprocessing.panoptic_segments`.
        size_divisibility: images are padded with zeros to multiples of it; 0 (default) or 1
            pads nothing beyond the largest image of a training batch.
        align_corners: whether the outputs' corner cells lie on the image's corner pixels, default
            False. If so, images are padded with zeros to multiples of ``size_divisibility`` plus
            one, where this is so exactly; both heads need the same.

    Raises:
        ValueError: a head that resizes otherwise.
    """

    sem_seg_head: Any
    ins_embed_head: Any
    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: nn.Module,
        ins_embed_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        thing_classes: Collection[int],
        stuff_area: int = 2048,
        center_threshold: float = 0.1,
        nms_kernel: int = 7,
        top_k: int = 200,
        size_divisibility: int = 0,
        align_corners: bool = False,
    ):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.ins_embed_head = ins_embed_head
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self.thing_classes = tuple(thing_classes)
        self.stuff_area = stuff_area
        self.center_threshold = center_threshold
        self.nms_kernel = nms_kernel
        self.top_k = top_k
        self.align_corners = align_corners
        self.size_divisibility = 0 if align_corners else size_divisibility
        self.grid_step = size_divisibility if align_corners else 0
        for head in (sem_seg_head, ins_embed_head):
            _check_aligns(head, align_corners)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        if not cfg.DATASETS.TRAIN:
            raise ValueError(
                "DATASETS.TRAIN is empty; AxialDeepLab learns from the first data set that it "
                "names which classes are things."
            )
        backbone = build_backbone(cfg)
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        node = cfg.MODEL.PANOPTIC_DEEPLAB
        divisibility = max(node.SIZE_DIVISIBILITY, backbone.size_divisibility)
        if node.ALIGN_CORNERS:
            strides = [shape.stride for shape in backbone.output_shape().values()]
            divisibility = math.lcm(max(divisibility, 1), *strides)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "ins_embed_head": build_ins_embed_branch(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "thing_classes": metadata.thing_dataset_id_to_contiguous_id.values(),
            "stuff_area": node.STUFF_AREA,
            "center_threshold": node.CENTER_THRESHOLD,
            "nms_kernel": node.NMS_KERNEL,
            "top_k": node.TOP_K_INSTANCE,
            "size_divisibility": divisibility,
            "align_corners": node.ALIGN_CORNERS,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        if self.training:
            return self._losses(batched_inputs)
        return self.segment(batched_inputs, self.output_maps)

    def segment(
        self,
        batched_inputs: list[dict],
        output_maps: Callable[[list[dict]], Iterable[OutputMaps]],
    ) -> list[dict]:
        """The result for each image, from the maps that ``output_maps`` makes of it.

        Args:
            batched_inputs: as :meth:`forward` takes them.
            output_maps: gives the maps of images of one size, in their order, as the method of
                that name does; test-time augmentation gives averaged ones.
        """
        results: list[dict] = [{}] * len(batched_inputs)
        for indices in indices_by_size(batched_inputs).values():
            group = [batched_inputs[index] for index in indices]
            for index, maps in zip(indices, output_maps(group), strict=True):
                results[index] = self._result(maps)
        return results

    def output_maps(self, batched_inputs: list[dict]) -> Iterator[OutputMaps]:
        """Maps of each image, all of one size; the network sees them in one batch.

        Args:
            batched_inputs: as :meth:`forward` takes them.
        """
        images = self._images(batched_inputs)
        logits, center, offset = self._network_maps(images)
        resize = self._resize_aligned if self.align_corners else self._resize
        padded = (images.shape[2], images.shape[3])
        for index, inputs in enumerate(batched_inputs):
            image = slice(index, index + 1)
            yield resize(logits[image], center[image], offset[image], padded, inputs)

    def _losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        images = self._images(batched_inputs)
        targets = self._targets(batched_inputs, images.shape[-2:])
        logits, center, offset = self._network_maps(images)
        return {
            **self.sem_seg_head.losses(logits, targets["sem_seg"], targets["sem_seg_weights"]),
            **self.ins_embed_head.center_losses(
                center, targets["center"].unsqueeze(1), targets["center_weights"]
            ),
            **self.ins_embed_head.offset_losses(
                offset, targets["offset"], targets["offset_weights"]
            ),
        }

    def _network_maps(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, num_classes, h, w], heat-map [B, 1, h, w] and offsets [B, 2, h, w]."""
        features = self.backbone(images)
        logits = self.sem_seg_head.layers(features)
        center, offset = self.ins_embed_head.layers(features)
        return logits.float(), center.float(), offset.float()

    def _resize_aligned(
        self, logits: Tensor, center: Tensor, offset: Tensor, padded: tuple[int, int], inputs: dict
    ) -> OutputMaps:
        sizes = (padded, image_size(inputs), output_size(inputs))
        return OutputMaps(
            resize_aligned(logits, *sizes)[0].softmax(dim=0),
            resize_aligned(center, *sizes)[0, 0],
            resize_offsets_aligned(offset, *sizes)[0],
        )

    def _resize(
        self, logits: Tensor, center: Tensor, offset: Tensor, padded: tuple[int, int], inputs: dict
    ) -> OutputMaps:
        sizes = (image_size(inputs), output_size(inputs))
        semantic_stride = self.sem_seg_head.common_stride
        instance_stride = self.ins_embed_head.common_stride
        return OutputMaps(
            resize_predictions(logits, semantic_stride, *sizes)[0].softmax(dim=0),
            resize_predictions(center, instance_stride, *sizes)[0, 0],
            resize_offsets(offset, instance_stride, *sizes)[0],
        )

    def _result(self, maps: OutputMaps) -> dict:
        segments = panoptic_segments(
            *maps,
            self.thing_classes,
            stuff_area=self.stuff_area,
            threshold=self.center_threshold,
            nms_kernel=self.nms_kernel,
            top_k=self.top_k,
        )
        return {
            "panoptic_seg": (segments.ids, segments.segments_info()),
            "sem_seg": maps.probabilities,
            "instances": to_instances(segments),
        }

    def _images(self, batched_inputs: list[dict]) -> Tensor:
        """Normalised images, padded with zeros to one size, [B, C, H, W]."""
        images = [
            (inputs["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for inputs in batched_inputs
        ]
        if not self.align_corners:
            return ImageList.from_tensors(images, self.size_divisibility).tensor
        return stack_padded(images, grid_size(images, self.grid_step), 0)

    def _targets(self, batched_inputs: list[dict], padded_size: Sequence[int]) -> dict[str, Tensor]:
        """Targets of the size that each head's losses upsample to; padding weighs nothing."""
        semantic, instance = self.sem_seg_head.common_stride, self.ins_embed_head.common_stride
        if self.align_corners:
            semantic = instance = 1  # the losses upsample to any size
        # name → (what the size is a multiple of, value of the padding)
        padding = {
            "sem_seg": (semantic, self.sem_seg_head.ignore_value),
            "sem_seg_weights": (semantic, 0),
            "center": (instance, 0),
            "center_weights": (instance, 0),
            "offset": (instance, 0),
            "offset_weights": (instance, 0),
        }
        missing = [name for name in padding if name not in batched_inputs[0]]
        if missing:
            raise ValueError(
                f"the training data lack {missing}; AxialDeepLab trains on what "
                "axial_d2.data.PanopticMapper (or Detectron2's PanopticDeeplabDatasetMapper) makes "
                "of a data set."
            )
        return {
            name: stack_padded(
                [inputs[name].to(self.device) for inputs in batched_inputs],
                [-(-side // stride) * stride for side in padded_size],
                value,
            )
            for name, (stride, value) in padding.items()
        }


def _check_aligns(head: nn.Module, align_corners: bool) -> None:
    given = getattr(head, "align_corners", False)
    if given != align_corners:
        raise ValueError(
            f"align_corners is {align_corners} for AxialDeepLab and {given} for its "
            f"{type(head).__name__}; give both the same (MODEL.PANOPTIC_DEEPLAB.ALIGN_CORNERS sets "
            "it for both, and Detectron2's own heads only know False)."
        )


def image_size(inputs: dict) -> tuple[int, int]:
    """Height and width of an input's image."""
    return inputs["image"].shape[-2], inputs["image"].shape[-1]


def output_size(inputs: dict) -> tuple[int, int]:
    """Height and width that an input asks for: its image's where it does not say."""
    height, width = image_size(inputs)
    return inputs.get("height", height), inputs.get("width", width)
