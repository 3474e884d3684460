"""One interpolation from the network's stride to the output size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_predictions(
    predictions: Tensor, stride: int, image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Predictions at ``stride`` for an image, resized bilinearly to the output size.

    The predictions cover ``stride`` times their own size, which is the image and perhaps some
    padding to its right and below; the padding is cut off.

    Args:
        predictions: [B, C, h, w] with ``h * stride >= image_size[0]``, likewise the width.
        stride: of the predictions.
        image_size: height and width of the network's input image.
        output_size: height and width to return.

    Returns:
        [B, C, *output_size].
    """
    covered = [size * stride for size in predictions.shape[-2:]]
    if tuple(covered) == tuple(image_size):
        return F.interpolate(predictions, tuple(output_size), mode="bilinear", align_corners=False)
    # A crop of the low-resolution map would move its last row, so the scale is given instead.
    scales = tuple(stride * out / image for out, image in zip(output_size, image_size, strict=True))
    resized = F.interpolate(
        predictions,
        scale_factor=scales,
        mode="bilinear",
        align_corners=False,
        recompute_scale_factor=False,
    )
    missing = [out - size for out, size in zip(output_size, resized.shape[-2:], strict=True)]
    if max(missing) > 0:  # h * scale fell just below a whole number
        resized = F.pad(resized, (0, max(0, missing[1]), 0, max(0, missing[0])), mode="replicate")
    return resized[..., : output_size[0], : output_size[1]]


def resize_offsets(
    offsets: Tensor, stride: int, image_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Like :func:`resize_predictions`, for offsets: their lengths change with the image.

    Args:
        offsets: [B, 2, h, w], (y, x) in units of ``stride`` input pixels.

    Returns:
        [B, 2, *output_size], (y, x) in output pixels.
    """
    factors = offsets.new_tensor(
        [stride * out / image for out, image in zip(output_size, image_size, strict=True)]
    )
    return resize_predictions(offsets, stride, image_size, output_size) * factors[:, None, None]
