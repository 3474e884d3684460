"""Classification of whole images on any backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from axial_d2.meta_arch.batching import indices_by_size
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torchvision.transforms import v2


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """A backbone, global average pooling and one linear layer, trained by cross entropy.

    ``forward`` takes Detectron2's list of dicts. Each has "image" [C, H, W], in
    ``INPUT.FORMAT`` order, values 0 … 255, and in training "label", the class from 0 to
    ``num_classes`` - 1.

    Returns in training {"loss_classification": scalar}, and records the accuracy in the batch as
    "classifier/top1", from 0 to 1, where something records (a trainer does); with mixup, that of
    the class which has the greater share. In inference, one dict an image with "logits"
    [num_classes].

    In inference, images of one size share a batch and others are run apart, so that the result
    for an image does not depend on its company. Training images have one size.

    Args:
        backbone: whose features are pooled.
        in_feature: the name of the pooled one; default "res5".
        num_classes: 1 or more.
        pixel_mean, pixel_std: of each channel of the image.
        dropout: probability that training drops a pooled channel: 0 (default) to below 1.
        label_smoothing: share of the target that goes to all classes alike (Szegedy et al.,
            2016), 0 (default) to below 1.
        mixup_alpha: of the beta distribution that mixup draws the shares of two images from
            (Zhang et al., 2018), above 0; 0 (default) mixes nothing. Images are mixed within a
            batch, as torchvision does, so that a batch of one stays as it is.

    Raises:
        ValueError: a value out of range or a feature that the backbone does not give; in training,
            images of several sizes, or a label that is missing or out of range.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_feature: str = "res5",
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
    ):
        super().__init__()
        _require(num_classes >= 1, "NUM_CLASSES", num_classes, "1 or more")
        _require(0 <= dropout < 1, "DROPOUT", dropout, "from 0 (none) to below 1")
        _require(
            0 <= label_smoothing < 1, "LABEL_SMOOTHING", label_smoothing, "from 0 (none) to below 1"
        )
        _require(mixup_alpha >= 0, "MIXUP_ALPHA", mixup_alpha, "0 (none) or more")
        features = backbone.output_shape()
        if in_feature not in features:
            raise ValueError(
                f"MODEL.CLASSIFIER.IN_FEATURE is {in_feature!r}, but the backbone "
                f"{type(backbone).__name__} gives {tuple(features)}; name one of these, or have it "
                "give more with the OUT_FEATURES of the backbone's own node."
            )
        self.backbone = backbone
        self.in_feature = in_feature
        self.num_classes = num_classes
        self.stride = features[in_feature].stride
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features[in_feature].channels, num_classes)
        # Goyal et al., "Accurate, Large Minibatch SGD", section 5.1.
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.label_smoothing = label_smoothing
        self.mixup = v2.MixUp(alpha=mixup_alpha, num_classes=num_classes) if mixup_alpha else None
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.MODEL.CLASSIFIER
        return {
            "backbone": build_backbone(cfg),
            "num_classes": node.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "in_feature": node.IN_FEATURE,
            "dropout": node.DROPOUT,
            "label_smoothing": node.LABEL_SMOOTHING,
            "mixup_alpha": node.MIXUP_ALPHA,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        if self.training:
            return self._losses(batched_inputs)
        results: list[dict] = [{}] * len(batched_inputs)
        for indices in indices_by_size(batched_inputs).values():
            images = self._images([batched_inputs[index] for index in indices])
            for index, logits in zip(indices, self.logits(images), strict=True):
                results[index] = {"logits": logits}
        return results

    def logits(self, images: Tensor) -> Tensor:
        """Scores of normalised images [B, C, H, W], [B, num_classes] in float32."""
        multiple = max(1, self.backbone.size_divisibility)
        below, right = (-side % multiple for side in images.shape[-2:])
        features = self.backbone(F.pad(images, (0, right, 0, below)))[self.in_feature]
        # Those of padding alone do not count.
        height, width = (-(-side // self.stride) for side in images.shape[-2:])
        features = features[..., :height, :width]
        return self.linear(self.dropout(features.mean(dim=(-2, -1)))).float()

    def _losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        targets = self._labels(batched_inputs)
        sizes = list(indices_by_size(batched_inputs))
        if len(sizes) > 1:
            raise ValueError(
                f"a training batch has images of the sizes {sizes[:4]}; ImageClassifier trains on "
                "images of one size, such as axial_d2.data.ClassificationMapper crops."
            )
        images = self._images(batched_inputs)
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        logits = self.logits(images)
        _record_accuracy(logits, targets)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        return {"loss_classification": loss}

    def _images(self, batched_inputs: list[dict]) -> Tensor:
        """Normalised images of one size, [B, C, H, W]."""
        images = torch.stack([inputs["image"].to(self.device) for inputs in batched_inputs])
        return (images - self.pixel_mean) / self.pixel_std

    def _labels(self, batched_inputs: list[dict]) -> Tensor:
        """Classes [B] of type int64."""
        labels = []
        for inputs in batched_inputs:
            label = int(inputs.get("label", -1))
            if not 0 <= label < self.num_classes:
                found = f"the label {label}" if "label" in inputs else "no 'label'"
                raise ValueError(
                    f"the image {inputs.get('file_name', '(without a file name)')} has {found}; "
                    "ImageClassifier trains on labels from 0 to MODEL.CLASSIFIER.NUM_CLASSES - 1, "
                    f"here {self.num_classes - 1}."
                )
            labels.append(label)
        return torch.tensor(labels, device=self.device)


def _record_accuracy(logits: Tensor, targets: Tensor) -> None:
    """Of classes [B] or their shares [B, num_classes]."""
    try:
        storage = get_event_storage()
    except AssertionError:  # no one records
        return
    classes = targets if targets.dim() == 1 else targets.argmax(dim=1)
    correct = logits.detach().argmax(dim=1) == classes
    storage.put_scalar("classifier/top1", correct.float().mean().item())


def _require(holds: bool, key: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"MODEL.CLASSIFIER.{key} is {value!r}; it must be {allowed}.")
