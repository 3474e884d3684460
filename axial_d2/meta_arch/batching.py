"""Images of many sizes in batches of one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def stack_padded(tensors: Sequence[Tensor], size: Sequence[int], value: float) -> Tensor:
    """[..., h, w] each, padded to the right and below to ``size`` and stacked."""
    return torch.stack(
        [
            F.pad(
                tensor, (0, size[1] - tensor.shape[-1], 0, size[0] - tensor.shape[-2]), value=value
            )
            for tensor in tensors
        ]
    )


def grid_size(images: Sequence[Tensor], step: int) -> list[int]:
    """Height and width, multiples of ``step`` plus one, that hold all images [..., h, w].

    On such sizes the cells of a map at stride ``step``, or a stride that divides it, lie from the
    first to the last pixel. A step of 0 or 1 gives the size of the largest images.
    """
    step = max(1, step)
    largest = [max(image.shape[dim] for image in images) for dim in (-2, -1)]
    return [-(-(side - 1) // step) * step + 1 for side in largest]


def indices_by_size(batched_inputs: list[dict]) -> dict[tuple[int, ...], list[int]]:
    """Indices of the inputs, by the shape of their images."""
    indices = defaultdict(list)
    for index, inputs in enumerate(batched_inputs):
        indices[tuple(inputs["image"].shape)].append(index)
    return indices
