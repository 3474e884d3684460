"""Attention to Scale: one network over several sizes of the image (arXiv 1511.03339)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from axial_d2.heads import DualAttentionHead
from axial_d2.layers.scale_attention import ScaleAttention, merge_by_weights
from axial_d2.meta_arch.batching import stack_padded
from axial_d2.meta_arch.sliding_window import SlidingWindowSegmentor
from axial_d2.postprocessing import resize_predictions
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.projects.deeplab import DeepLabV3Head
from detectron2.structures import ImageList
from torch import Tensor, nn

Size = tuple[int, int]
MERGING_CHOICES = ("attention", "average", "maximum")


class ScaleMaps(NamedTuple):
    """What the shared network makes of one scale of a batch.

    * size: height and width of the resized images.
    * scores: [B, num_classes, h, w] at the head's stride.
    * features: [B, F, h, w], those that the scores are made of.
    """

    size: Size
    scores: Tensor
    features: Tensor


class MergedMaps(NamedTuple):
    """What all scales make together, in the size of the largest scale's scores.

    * size: height and width of the largest scale's images.
    * scores: [B, num_classes, h, w].
    * features: those of each scale, S of [B, F, h, w].
    * weights: [B, S, h, w] of the scales, in their order; None with "maximum".
    """

    size: Size
    scores: Tensor
    features: list[Tensor]
    weights: Tensor | None


@META_ARCH_REGISTRY.register()
class ScaleAttentionSegmentor(SlidingWindowSegmentor):
    """Any backbone and semantic head, shared by several scales of the image and merged.

    The image is resized to each scale; the score maps are brought to the largest scale's size and
    merged: weighted by a small attention net that sees the features in front of every scale's
    classifier, or averaged, or by their maximum. Inputs and outputs are those of
    :class:`.SlidingWindowSegmentor`.

    In training there are 1 + S equally weighted losses of the head: "loss_sem_seg" of the merged
    scores and "loss_scale_<scale>" of each scale's own, against the ground truth resized (nearest)
    to that scale.

    Args:
        backbone, sem_seg_head: a head with ``layers``, ``losses``, ``common_stride`` and a
            ``predictor``, its last convolution, as Detectron2's and ours have.
        pixel_mean, pixel_std, window_size, window_stride: of :class:`.SlidingWindowSegmentor`.
        scales: ratios above 0 of the image's size; default (1.0, 0.75, 0.5), the paper's.
        test_scales: in inference, as many; default ``scales``.
        merging: "attention" (default), "average" or "maximum".
        attention_channels, attention_norm: of the attention net, see :class:`.ScaleAttention`;
            default 512 and "", as in the paper.
        scale_losses: whether each scale has a loss of its own; default True.
        scale_discriminator: an additional loss "loss_scale_discriminator", not the paper's: a
            classifier tells from the features in front of the head's classifier whether they are
            merged (0) or which scale (1 … S) they come from; default False.

    Raises:
        ValueError: no scale, one that is not above 0, another number of ``test_scales``, an
            unknown merging, or a head without the above.
    """

    sem_seg_head: Any

    @configurable
    def __init__(
        self,
        *,
        scales: Sequence[float] = (1.0, 0.75, 0.5),
        test_scales: Sequence[float] = (),
        merging: str = "attention",
        attention_channels: int = 512,
        attention_norm: str = "",
        scale_losses: bool = True,
        scale_discriminator: bool = False,
        **segmentor: Any,
    ):
        super().__init__(**segmentor)
        self.scales = tuple(scales)
        self.test_scales = tuple(test_scales) or self.scales
        check_scales(self.scales, self.test_scales)
        if merging not in MERGING_CHOICES:
            raise ValueError(
                f"MODEL.SCALE_ATTENTION.MERGING is {merging!r}; it must be one of "
                f"{MERGING_CHOICES}."
            )
        _check_head(self.sem_seg_head)
        if isinstance(self.sem_seg_head, DualAttentionHead):
            # Only the fused scores are merged; distributed training refuses what has no gradient.
            self.sem_seg_head.branch_predictors.requires_grad_(False)
        self.merging = merging
        self.scale_losses = scale_losses
        channels = self.sem_seg_head.predictor.in_channels
        self.attention = self.discriminator = None
        if merging == "attention":
            self.attention = ScaleAttention(
                channels, len(self.scales), attention_channels, attention_norm
            )
        if scale_discriminator:
            self.discriminator = nn.Conv2d(channels, len(self.scales) + 1, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.SCALE_ATTENTION
        return {
            **super().from_config(cfg),
            "scales": node.SCALES,
            "test_scales": node.TEST_SCALES,
            "merging": node.MERGING,
            "attention_channels": node.CHANNELS,
            "attention_norm": node.NORM,
            "scale_losses": node.SCALE_LOSSES,
            "scale_discriminator": node.SCALE_DISCRIMINATOR,
        }

    def training_losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        images, targets = self._batch(batched_inputs)
        maps = self.scale_maps(images, self.scales)
        merged = self.merge(maps)
        losses = {"loss_sem_seg": self._loss(merged.scores, merged.size, targets)}
        if self.scale_losses:
            for scale, each in zip(self.scales, maps, strict=True):
                losses[f"loss_scale_{scale:g}"] = self._loss(each.scores, each.size, targets)
        if self.discriminator is not None:
            losses["loss_scale_discriminator"] = self._discriminator_loss(maps, merged)
        return losses

    def scores(self, images: Tensor) -> Tensor:
        merged = self.merge(self.scale_maps(images, self.test_scales))
        return self._at_image_size(merged.scores, merged.size, images)

    def scale_weights(self, images: Tensor) -> Tensor:
        """How much each scale of inference counts, [B, S, H, W], for pictures.

        Args:
            images: normalised, [B, C, H, W].

        Raises:
            ValueError: the merging is "maximum", which has no weights.
        """
        merged = self.merge(self.scale_maps(images, self.test_scales))
        if merged.weights is None:
            raise ValueError(
                "MODEL.SCALE_ATTENTION.MERGING is 'maximum', which has no weights of scales."
            )
        return self._at_image_size(merged.weights, merged.size, images)

    def scale_maps(self, images: Tensor, scales: Sequence[float]) -> list[ScaleMaps]:
        """The shared network on each scale of normalised images [B, C, H, W]."""
        return [self._scale_map(images, scale) for scale in scales]

    def merge(self, maps: Sequence[ScaleMaps]) -> MergedMaps:
        """All scales in one, as ``merging`` says."""
        largest = max(maps, key=lambda each: each.size)
        scores = [_on_grid_of(largest, each.scores, each.size) for each in maps]
        features = [_on_grid_of(largest, each.features, each.size) for each in maps]
        weights = self._weights(features)
        return MergedMaps(largest.size, _merged(scores, weights), features, weights)

    def _scale_map(self, images: Tensor, scale: float) -> ScaleMaps:
        size = scaled_size(images, scale)
        if size != tuple(images.shape[-2:]):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        padded = ImageList.from_tensors(list(images), self.backbone.size_divisibility).tensor
        return ScaleMaps(size, *scores_and_features(self.sem_seg_head, self.backbone(padded)))

    def _weights(self, features: Sequence[Tensor]) -> Tensor | None:
        if self.merging == "maximum":
            return None
        if self.attention is not None:
            return self.attention(features)
        first = features[0]
        return first.new_full((len(first), len(features), *first.shape[-2:]), 1 / len(features))

    def _batch(self, batched_inputs: list[dict]) -> tuple[Tensor, Tensor]:
        """Normalised images [B, C, H, W] and class ids [B, H, W], padded to one size."""
        images = [
            (inputs["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for inputs in batched_inputs
        ]
        batch = ImageList.from_tensors(images).tensor
        targets = [inputs["sem_seg"].to(self.device) for inputs in batched_inputs]
        return batch, stack_padded(targets, batch.shape[-2:], self.sem_seg_head.ignore_value)

    def _loss(self, scores: Tensor, size: Size, targets: Tensor) -> Tensor:
        """The head's, against targets [B, H, W] resized to the scale's ``size``."""
        head = self.sem_seg_head
        covered = [side * head.common_stride for side in scores.shape[-2:]]
        resized = F.interpolate(targets[:, None].float(), size, mode="nearest-exact")[:, 0].long()
        targets = stack_padded(list(resized), covered, head.ignore_value)
        return sum(head.losses(scores, targets).values())

    def _discriminator_loss(self, maps: Sequence[ScaleMaps], merged: MergedMaps) -> Tensor:
        assert self.discriminator is not None
        together = _merged(merged.features, merged.weights)
        losses = []
        for label, features in enumerate([together, *(each.features for each in maps)]):
            logits = self.discriminator(features).float()
            labels = torch.full_like(logits[:, 0], label, dtype=torch.long)
            losses.append(F.cross_entropy(logits, labels))
        return torch.stack(losses).mean()

    def _at_image_size(self, maps: Tensor, size: Size, images: Tensor) -> Tensor:
        """Maps [B, C, h, w] of images that were resized to ``size``, [B, C, H, W]."""
        image_size = (images.shape[-2], images.shape[-1])
        return resize_predictions(maps.float(), self.sem_seg_head.common_stride, size, image_size)


def scaled_size(images: Tensor, scale: float) -> Size:
    """Height and width of images [..., H, W] at a scale, rounded, at least a pixel each."""
    height, width = (max(1, int(side * scale + 0.5)) for side in images.shape[-2:])
    return height, width


def scores_and_features(head: Any, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a head's ``predictor`` makes, and what it makes it of.

    Returns:
        [B, num_classes, h, w] and [B, F, h, w] at the head's stride.
    """
    seen: list[Tensor] = []
    hook = head.predictor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        if isinstance(head, DeepLabV3Head):  # which has this in its forward
            scores = head.predictor(head.aspp(features[head.in_features[0]]))
        else:
            scores = head.layers(features)
    finally:
        hook.remove()
    return scores, seen[0]


def check_scales(scales: Sequence[float], test_scales: Sequence[float]) -> None:
    """Raises ValueError unless there are scales, as many in inference, all above 0."""
    for key, given in (("SCALES", scales), ("TEST_SCALES", test_scales)):
        if not given or any(not 0 < scale < math.inf for scale in given):
            raise ValueError(
                f"MODEL.SCALE_ATTENTION.{key} is {tuple(given)}; it must be one or more ratios "
                "above 0 of the image's size, such as (1.0, 0.75, 0.5)."
            )
    if len(test_scales) != len(scales):
        raise ValueError(
            f"MODEL.SCALE_ATTENTION.TEST_SCALES {tuple(test_scales)} are {len(test_scales)}, but "
            f"the model is trained with the {len(scales)} SCALES {tuple(scales)}; give as many, or "
            "train with another number."
        )
    if len(set(scales)) != len(scales):
        raise ValueError(f"MODEL.SCALE_ATTENTION.SCALES {tuple(scales)} names a scale twice.")


def _check_head(head: Any) -> None:
    names = ["predictor", "losses", "common_stride", "ignore_value"]
    if not isinstance(head, DeepLabV3Head):
        names.append("layers")
    missing = [name for name in names if not hasattr(head, name)]
    if missing:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NAME {type(head).__name__} has no {', '.join(missing)}, which "
            "ScaleAttentionSegmentor needs; choose one of Detectron2's or axial_d2's heads."
        )


def _on_grid_of(largest: ScaleMaps, maps: Tensor, size: Size) -> Tensor:
    """Maps [B, C, h, w] of images of ``size`` on the cells of the largest scale's maps.

    A cell is ``common_stride`` pixels of its own scale's image, also where the last one reaches
    beyond it, so the images' sizes say how many cells of one are a cell of the other.
    """
    height, width = largest.scores.shape[-2:]
    if size == largest.size:
        return maps
    ratios = tuple(ours / theirs for ours, theirs in zip(largest.size, size, strict=True))
    resized = F.interpolate(
        maps,
        scale_factor=ratios,
        mode="bilinear",
        align_corners=False,
        recompute_scale_factor=False,
    )
    missing = [height - resized.shape[-2], width - resized.shape[-1]]
    if max(missing) > 0:
        resized = F.pad(resized, (0, max(0, missing[1]), 0, max(0, missing[0])), mode="replicate")
    return resized[..., :height, :width]


def _merged(maps: Sequence[Tensor], weights: Tensor | None) -> Tensor:
    if weights is None:
        return torch.stack(list(maps)).amax(dim=0)
    return merge_by_weights(maps, weights)
