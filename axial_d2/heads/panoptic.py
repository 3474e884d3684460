"""The two branches of Axial-DeepLab: semantic segmentation, and instance centres and offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from axial_d2.heads.decoder import AxialDeepLabDecoder, check_features, decoder_arguments
from axial_d2.layers.norm_constants import set_norm_constants
from detectron2.config import CfgNode, configurable
from detectron2.layers import DepthwiseSeparableConv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.panoptic_deeplab.panoptic_seg import (
    INS_EMBED_BRANCHES_REGISTRY,
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
)
from detectron2.utils import comm
from torch import Tensor


@SEM_SEG_HEADS_REGISTRY.register()
class AxialDeepLabSemSegHead(PanopticDeepLabSemSegHead, AxialDeepLabDecoder):
    """Panoptic-DeepLab's semantic branch on the decoder without obligatory ASPP.

    ``forward(features, targets, weights)`` as in Detectron2: logits at input size in inference,
    a dict with "loss_sem_seg" in training. ``layers(features)`` gives the raw logits,
    [B, num_classes, h, w] at ``common_stride``.

    Args:
        norm_eps, norm_momentum: of every batch norm, default PyTorch's 1e-5 and 0.1; DeepLab2 has
            1e-3 and 0.01. See :func:`.set_norm_constants`.
        align_corners: of :class:`.AxialDeepLabDecoder` and of the losses.
        kwargs: of Detectron2's head and of :class:`.AxialDeepLabDecoder`.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        **kwargs: Any,
    ):
        super().__init__(input_shape=input_shape, **kwargs)
        set_norm_constants(self, norm_eps, norm_momentum, "MODEL.SEM_SEG_HEAD")

    def losses(
        self, predictions: Tensor, targets: Tensor, weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Cross entropy of the upsampled logits.

        Args:
            predictions: [B, num_classes, h, w].
            targets: [B, H, W], H = h * common_stride, or with ``align_corners`` any size.
            weights: [B, H, W], or None.
        """
        if not self.align_corners:
            return super().losses(predictions, targets, weights)
        logits = _aligned(predictions, targets)
        return {"loss_sem_seg": self.loss(logits, targets, weights) * self.loss_weight}


@INS_EMBED_BRANCHES_REGISTRY.register()
class AxialDeepLabInsEmbedHead(PanopticDeepLabInsEmbedHead, AxialDeepLabDecoder):
    """Panoptic-DeepLab's instance branch on the decoder without obligatory ASPP.

    ``layers(features)`` gives the centre heat-map [B, 1, h, w] and the offsets (y, x)
    [B, 2, h, w] in units of ``common_stride`` input pixels.

    With ``use_depthwise_separable_conv`` (default) the centre head is one 5×5
    depthwise-separable convolution like every other head, which the published parameter and
    multiply-add counts demand; Detectron2 keeps two full 3×3 convolutions there.

    The losses are normalised by the weights of all processes together, so that a batch costs
    the same however it is spread; Detectron2 normalises each process by its own.

    Args:
        norm_eps, norm_momentum, align_corners: as in :class:`AxialDeepLabSemSegHead`.
        kwargs: of Detectron2's head and of :class:`.AxialDeepLabDecoder`.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        decoder_channels: Sequence[int],
        norm: str,
        head_channels: int,
        use_depthwise_separable_conv: bool = True,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        **kwargs: Any,
    ):
        super().__init__(
            input_shape=input_shape,  # by name: LazyConfig's, positional, would pass for a cfg
            decoder_channels=decoder_channels,
            norm=norm,
            head_channels=head_channels,  # type: ignore[call-arg]
            use_depthwise_separable_conv=use_depthwise_separable_conv,
            **kwargs,
        )
        if use_depthwise_separable_conv:
            self.center_head = DepthwiseSeparableConv2d(
                decoder_channels[0],
                head_channels,
                kernel_size=5,
                padding=2,
                norm1=norm,
                activation1=F.relu,
                norm2=norm,
                activation2=F.relu,
            )
        set_norm_constants(self, norm_eps, norm_momentum, "MODEL.INS_EMBED_HEAD")

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.INS_EMBED_HEAD
        check_features("MODEL.INS_EMBED_HEAD", node.IN_FEATURES, input_shape)
        arguments = super().from_config(cfg, input_shape)
        arguments.pop("train_size")
        return {**arguments, **decoder_arguments(cfg, node)}

    def center_losses(self, predictions: Tensor, targets: Tensor, weights: Tensor) -> dict:
        """Mean squared error of the heat-map over the pixels of weight 1.

        Args:
            predictions: [B, 1, h, w].
            targets: [B, 1, H, W], H = h * common_stride, or with ``align_corners`` any size.
            weights: [B, 1, H, W].
        """
        loss = F.mse_loss(self._upsampled(predictions, targets), targets, reduction="none")
        return {"loss_center": _weighted_mean(loss, weights) * self.center_loss_weight}

    def offset_losses(self, predictions: Tensor, targets: Tensor, weights: Tensor) -> dict:
        """Absolute error of the offsets, |dy| + |dx| in input pixels, over pixels of weight 1.

        Args:
            predictions: [B, 2, h, w] in units of ``common_stride`` pixels.
            targets: [B, 2, H, W] in pixels.
            weights: [B, 1, H, W].
        """
        if self.align_corners:
            distance: Tensor | int = _pixels_between_cells(predictions, targets)
        else:
            distance = self.common_stride
        predictions = self._upsampled(predictions, targets) * distance
        loss = F.l1_loss(predictions, targets, reduction="none")
        return {"loss_offset": _weighted_mean(loss, weights) * self.offset_loss_weight}

    def _upsampled(self, predictions: Tensor, targets: Tensor) -> Tensor:
        if self.align_corners:
            return _aligned(predictions, targets)
        return F.interpolate(
            predictions, scale_factor=self.common_stride, mode="bilinear", align_corners=False
        )


def _aligned(predictions: Tensor, targets: Tensor) -> Tensor:
    """Predictions at the targets' size, corner pixels on corner pixels."""
    return F.interpolate(predictions, targets.shape[-2:], mode="bilinear", align_corners=True)


def _pixels_between_cells(predictions: Tensor, targets: Tensor) -> Tensor:
    """[2, 1, 1], the distance in target pixels from a cell to the next one, by y and by x."""
    sides = zip(targets.shape[-2:], predictions.shape[-2:], strict=True)
    factors = [(size - 1) / max(cells - 1, 1) for size, cells in sides]
    return predictions.new_tensor(factors)[:, None, None]


def _weighted_mean(loss: Tensor, weights: Tensor) -> Tensor:
    """Sum of loss · weight over this process's share of all weights; 0 where there are none."""
    total = weights.sum(dtype=torch.float32)
    world_size = comm.get_world_size()
    if world_size > 1:
        torch.distributed.all_reduce(total)
    return (loss * weights).sum() * world_size / total.clamp(min=1)
