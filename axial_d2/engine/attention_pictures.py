"""What a trained dual attention or attention to scale looks at, drawn over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from axial_d2.heads import DualAttentionHead
from axial_d2.meta_arch import ScaleAttentionSegmentor
from axial_d2.postprocessing import resize_predictions
from axial_d2.visualization import draw_map, draw_prediction, legible_scale, side_by_side
from detectron2.data import Metadata
from detectron2.structures import ImageList
from torch import Tensor, nn

Array = np.ndarray
Point = tuple[int, int]
NUM_CHANNELS = 2


class AttentionPainter:
    """Draws attention maps of a semantic segmentor beside its prediction.

    Args:
        model: a segmentor with a :class:`.DualAttentionHead`, or a
            :class:`.ScaleAttentionSegmentor`; put into evaluation mode.
        metadata: of the data set, for names and colours.
        input_format: "RGB" or "BGR", ``INPUT.FORMAT``.

    Raises:
        ValueError: another kind of model.
    """

    def __init__(self, model: nn.Module, metadata: Metadata, input_format: str):
        self.model: Any = model.eval()
        self.metadata = metadata
        self.input_format = input_format
        head = getattr(model, "sem_seg_head", None)
        if not isinstance(model, ScaleAttentionSegmentor) and not isinstance(
            head, DualAttentionHead
        ):
            raise ValueError(
                "there is no attention to draw: MODEL.SEM_SEG_HEAD.NAME must be DualAttentionHead, "
                "or MODEL.META_ARCHITECTURE ScaleAttentionSegmentor; given a "
                f"{type(model).__name__} with a {type(head).__name__}."
            )

    @torch.no_grad()
    def draw(
        self, image: Array, points: Sequence[Point] = (), channels: Sequence[int] = ()
    ) -> Array:
        """The image with its prediction and, beside it, maps in the same size.

        Of attention to scale, the weight of each scale, from 0 (dark) to 1 (bright). Of dual
        attention, for every point what its position attends to, and for every channel its map
        behind the channel attention.

        Args:
            image: [H, W, 3] uint8, RGB.
            points: (row, column) of pixels; default three on the diagonal.
            channels: of the channel attention; default those of the largest contrast.

        Returns:
            [h, w, 3] uint8, RGB, a row of panels with captions.

        Raises:
            ValueError: a point outside of the image, or a channel that does not exist.
        """
        scale = legible_scale(*image.shape[:2])
        tensor = self._tensor(image)
        prediction = self.model([{"image": tensor}])[0]
        panels = {"prediction": draw_prediction(image, prediction, self.metadata, scale=scale)}
        images = ((tensor.to(self.model.device) - self.model.pixel_mean) / self.model.pixel_std)[
            None
        ]
        if isinstance(self.model, ScaleAttentionSegmentor):
            for name, weights in self._scale_weights(images).items():
                panels[name] = draw_map(image, weights, scale=scale, limits=(0.0, 1.0))
            return side_by_side(panels)
        features = self._features(images)
        for name, values, point in (
            *self._position_maps(features, image, points),
            *self._channel_maps(features, image, channels),
        ):
            panels[name] = draw_map(image, values, scale=scale, point=point)
        return side_by_side(panels)

    def _tensor(self, image: Array) -> Tensor:
        ordered = image if self.input_format == "RGB" else image[:, :, ::-1]
        return torch.as_tensor(np.ascontiguousarray(ordered.transpose(2, 0, 1)).astype(np.float32))

    def _scale_weights(self, images: Tensor) -> dict[str, Tensor]:
        weights = self.model.scale_weights(images)[0]
        return {
            f"weight of scale {scale:g}": weight
            for scale, weight in zip(self.model.test_scales, weights, strict=True)
        }

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        divisibility = self.model.backbone.size_divisibility
        return self.model.backbone(ImageList.from_tensors(list(images), divisibility).tensor)

    def _position_maps(
        self, features: dict[str, Tensor], image: Array, points: Sequence[Point]
    ) -> list[tuple[str, Tensor, Point | None]]:
        head = self.model.sem_seg_head
        if not _has_attention(head, "position"):
            return []
        height, width = image.shape[:2]
        points = points or [(height * i // 4, width * i // 4) for i in (1, 2, 3)]
        for row, column in points:
            if not (0 <= row < height and 0 <= column < width):
                raise ValueError(
                    f"the point ({row}, {column}) lies outside of the image; rows go from 0 to "
                    f"{height - 1}, columns from 0 to {width - 1}."
                )
        x = head.attention_input("position", features)
        cells = torch.tensor(points, device=x.device) // head.common_stride
        maps = self._at_image_size(head.attention_layer("position").weights(x, cells), image)
        return [
            (f"position ({row}, {column})", values, (row, column))
            for (row, column), values in zip(points, maps, strict=True)
        ]

    def _channel_maps(
        self, features: dict[str, Tensor], image: Array, channels: Sequence[int]
    ) -> list[tuple[str, Tensor, Point | None]]:
        head = self.model.sem_seg_head
        if not _has_attention(head, "channel"):
            return []
        attended = head.attention_layer("channel")(head.attention_input("channel", features))
        count = attended.shape[1]
        if not channels:
            contrast = attended[0].flatten(1).std(dim=1)
            channels = contrast.topk(min(NUM_CHANNELS, count)).indices.tolist()
        if any(not 0 <= channel < count for channel in channels):
            raise ValueError(
                f"channels {list(channels)} are not all from 0 to {count - 1}, which this head has."
            )
        maps = self._at_image_size(attended[:, list(channels)], image)
        return [
            (f"channel {channel}", values, None)
            for channel, values in zip(channels, maps, strict=True)
        ]

    def _at_image_size(self, maps: Tensor, image: Array) -> Tensor:
        size = (image.shape[0], image.shape[1])
        return resize_predictions(maps, self.model.sem_seg_head.common_stride, size, size)[0]


def _has_attention(head: Any, name: str) -> bool:
    return name in head.branches and not isinstance(head.branches[name].attention, nn.Identity)
