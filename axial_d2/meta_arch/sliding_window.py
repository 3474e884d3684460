"""Detectron2's semantic segmentor, also by windows that slide over a large image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import SemanticSegmentor
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn

Size = tuple[int, int]


@META_ARCH_REGISTRY.register()
class SlidingWindowSegmentor(SemanticSegmentor):
    """Detectron2's ``SemanticSegmentor`` whose inference may look at one window at a time.

    Training, inputs and outputs are Detectron2's. In inference every image is run apart, so that
    its result does not depend on its company. Windows overlap; where several see a pixel, its
    scores are their mean. The last window of a row or column ends where the image ends, and an
    image that is smaller than the window is one smaller window. Without a window, or with one
    that holds the image, the result is that of the whole image.

    Args:
        backbone, sem_seg_head, pixel_mean, pixel_std: of Detectron2's segmentor.
        window_size: height and width of the windows in pixels of the network's input; None
            (default) for the whole image.
        window_stride: from one window to the next, (down, right) in pixels; at most the size.

    Raises:
        ValueError: a size or stride below 1, or a stride that leaves gaps.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        window_size: Sequence[int] | None = None,
        window_stride: Sequence[int] | None = None,
    ):
        super().__init__(
            backbone=backbone,
            sem_seg_head=sem_seg_head,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.window_size = self.window_stride = None
        if window_size is not None:
            stride = window_size if window_stride is None else window_stride
            check_window(window_size, stride)
            self.window_size, self.window_stride = tuple(window_size), tuple(stride)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.TEST.SLIDING_WINDOW
        windows = {"window_size": node.SIZE, "window_stride": node.STRIDE} if node.ENABLED else {}
        return {**super().from_config(cfg), **windows}

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        if self.training:
            return self.training_losses(batched_inputs)
        return [{"sem_seg": self._segment(inputs)} for inputs in batched_inputs]

    def training_losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """Detectron2's: those of the head."""
        return super().forward(batched_inputs)

    def scores(self, images: Tensor) -> Tensor:
        """Scores of normalised images [B, C, H, W] of any size, [B, num_classes, H, W]."""
        height, width = images.shape[-2:]
        padded = ImageList.from_tensors(list(images), self.backbone.size_divisibility).tensor
        return self.sem_seg_head(self.backbone(padded))[0][..., :height, :width]

    def _segment(self, inputs: dict) -> Tensor:
        """Scores [num_classes, height, width] in the size that the input asks for."""
        image = (inputs["image"].to(self.device) - self.pixel_mean) / self.pixel_std
        size = (image.shape[-2], image.shape[-1])
        scores = self._sliding_scores(image[None])[0]
        return sem_seg_postprocess(
            scores, size, inputs.get("height", size[0]), inputs.get("width", size[1])
        )

    def _sliding_scores(self, image: Tensor) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        if self.window_size is None or self.window_stride is None:
            return self.scores(image)
        total: Tensor | None = None
        counts = image.new_zeros(size)
        for window in windows(size, self.window_size, self.window_stride):
            scores = self.scores(image[..., window[0], window[1]])
            if total is None:
                total = scores.new_zeros(*scores.shape[:2], *size)
            total[..., window[0], window[1]] += scores
            counts[window] += 1
        assert total is not None
        return total.div_(counts)


def windows(image: Size, window: Sequence[int], stride: Sequence[int]) -> Iterator[tuple]:
    """(rows, columns) as slices, which cover the image; none is larger than it.

    Args:
        image, window: height and width in pixels.
        stride: from one window to the next, down and to the right.
    """
    rows, columns = (_starts(*sides) for sides in zip(image, window, stride, strict=True))
    for top in rows:
        for left in columns:
            yield slice(top, top + window[0]), slice(left, left + window[1])


def _starts(side: int, window: int, stride: int) -> list[int]:
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def check_window(size: Sequence[int], stride: Sequence[int]) -> None:
    """Raises ValueError unless such windows cover every image."""
    sides = [*size, *stride]
    fits = len(size) == len(stride) == 2 and all(
        isinstance(side, int) and side >= 1 for side in sides
    )
    if not fits or any(step > side for side, step in zip(size, stride, strict=True)):
        raise ValueError(
            f"TEST.SLIDING_WINDOW.SIZE {tuple(size)} and STRIDE {tuple(stride)} must each be two "
            "whole numbers of pixels, (height, width) of 1 or more, the strides no larger than "
            "the size, or pixels would be left out."
        )
