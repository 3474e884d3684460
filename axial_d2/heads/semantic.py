"""What heads for semantic segmentation have in common, and the simplest of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

Losses = dict[str, Tensor]


def pixel_cross_entropy(scores: Tensor, targets: Tensor, ignore_value: int) -> Tensor:
    """Mean cross entropy of the labelled pixels; 0, not NaN, where there are none.

    Args:
        scores: [B, num_classes, h, w], upsampled bilinearly to the targets' size.
        targets: [B, H, W], class ids and ``ignore_value``.
        ignore_value: of pixels that do not count.
    """
    scores = F.interpolate(scores.float(), targets.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(scores, targets, ignore_index=ignore_value, reduction="sum")
    return total / (targets != ignore_value).sum().clamp(min=1)


class SemanticHead(nn.Module):
    """A head on one feature whose scores have the stride of that feature.

    ``forward(features, targets)`` as Detectron2's heads: in inference the scores at the size of
    the (padded) input and no losses, in training None and the losses. ``layers(features)`` gives
    the scores [B, num_classes, h, w] at ``common_stride``; ``predictor`` makes them.

    Args:
        input_shape: of one feature, by name.
        num_classes: of the predictor.
        loss_weight: of every loss; default 1.
        ignore_value: label of pixels that do not count; default 255.

    Raises:
        ValueError: not exactly one feature.
    """

    predictor: nn.Module

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
    ):
        super().__init__()
        if len(input_shape) != 1:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES {list(input_shape)} must be one feature for a "
                f"{type(self).__name__}, usually the backbone's last."
            )
        ((self.in_feature, shape),) = input_shape.items()
        self.in_channels = shape.channels
        self.common_stride = shape.stride
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.SEM_SEG_HEAD
        check_features(node.IN_FEATURES, input_shape)
        return {
            "input_shape": {name: input_shape[name] for name in node.IN_FEATURES},
            "num_classes": node.NUM_CLASSES,
            "loss_weight": node.LOSS_WEIGHT,
            "ignore_value": node.IGNORE_VALUE,
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, Losses]:
        if self.training:
            assert targets is not None, "training needs targets"
            return None, self.losses(self.layers(features), targets)
        scores = self.layers(features).float()
        size = [side * self.common_stride for side in scores.shape[-2:]]
        return F.interpolate(scores, size, mode="bilinear", align_corners=False), {}

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Features by name → scores [B, num_classes, h, w] at ``common_stride``."""
        raise NotImplementedError

    def losses(self, predictions: Tensor, targets: Tensor) -> Losses:
        """{"loss_sem_seg": cross entropy} of scores [B, num_classes, h, w] and [B, H, W]."""
        loss = pixel_cross_entropy(predictions, targets, self.ignore_value)
        return {"loss_sem_seg": loss * self.loss_weight}


@SEM_SEG_HEADS_REGISTRY.register()
class LinearSemSegHead(SemanticHead):
    """A 1×1 convolution of one feature to scores, as DeepLab-LargeFOV has on fc7.

    Args:
        input_shape, others: of :class:`SemanticHead`.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], **others):
        super().__init__(input_shape, **others)
        self.predictor = nn.Conv2d(self.in_channels, self.num_classes, 1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        return self.predictor(features[self.in_feature])


def check_features(wanted: Sequence[str], input_shape: dict[str, ShapeSpec]) -> None:
    """Raises ValueError unless the backbone provides every wanted feature."""
    missing = [name for name in wanted if name not in input_shape]
    if missing:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES {list(wanted)} must be some of the backbone's output "
            f"features {list(input_shape)}; change it, or the backbone's OUT_FEATURES "
            f"(missing: {missing})."
        )
