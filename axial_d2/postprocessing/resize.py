"""One interpolation from the network's stride to the output size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


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


def resize_aligned(
    predictions: Tensor, padded_size: Size, image_size: Size, output_size: Size
) -> Tensor:
    """Predictions whose corner cells lie on the network input's corner pixels, at output size.

    The network saw the image with padding to its right and below. The corner pixels of the output
    lie on those of the image; the padding is cut off. Bilinear; where output and padded image have
    one size, ``interpolate`` with ``align_corners=True``.

    Args:
        predictions: [B, C, h, w].
        padded_size: height and width of the network's input.
        image_size: height and width of the image in it.
        output_size: height and width to return.

    Returns:
        [B, C, *output_size].
    """
    scales = _output_pixels_between_cells(predictions, padded_size, image_size, output_size)
    # The width first, while there are few rows.
    for dim, scale, size in ((-1, scales[1], output_size[1]), (-2, scales[0], output_size[0])):
        predictions = _interpolate(predictions, dim, scale, size)
    return predictions


def resize_offsets_aligned(
    offsets: Tensor, padded_size: Size, image_size: Size, output_size: Size
) -> Tensor:
    """Like :func:`resize_aligned`, for offsets: their lengths change with the image.

    Args:
        offsets: [B, 2, h, w], (y, x) in cells, two neighbours being one apart.

    Returns:
        [B, 2, *output_size], (y, x) in output pixels.
    """
    scales = _output_pixels_between_cells(offsets, padded_size, image_size, output_size)
    resized = resize_aligned(offsets, padded_size, image_size, output_size)
    return resized * offsets.new_tensor(scales)[:, None, None]


def _output_pixels_between_cells(
    predictions: Tensor, padded_size: Size, image_size: Size, output_size: Size
) -> list[float]:
    """By y and by x; a side of one pixel or cell, which has no neighbour, counts as two."""
    sides = zip(predictions.shape[-2:], padded_size, image_size, output_size, strict=True)
    intervals = [[max(side - 1, 1) for side in each] for each in sides]
    return [padded / cells * output / image for cells, padded, image, output in intervals]


def _interpolate(image: Tensor, dim: int, scale: float, size: int) -> Tensor:
    """Linear along ``dim``: position i of the ``size`` new ones lies at i / scale."""
    last = image.shape[dim] - 1
    positions = torch.arange(size, device=image.device, dtype=torch.float64) / scale
    positions = positions.clamp(max=last)
    before = positions.long()
    fraction = (positions - before).to(image.dtype)
    fraction = fraction.unsqueeze(-1) if dim == -2 else fraction
    low = image.index_select(dim, before)
    return low.lerp_(image.index_select(dim, (before + 1).clamp(max=last)), fraction)
