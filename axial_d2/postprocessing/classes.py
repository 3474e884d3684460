"""The semantic class of every pixel."""

from __future__ import annotations

from collections.abc import Collection

import torch
from axial_d2.postprocessing.host import reads_are_free
from torch import Tensor

# Probabilities compared at a time, so that they are still in a CPU's cache the second time.
CACHED_ELEMENTS = 1 << 17
BYTE_CLASSES = 255


def most_probable(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The highest probability of every pixel and the lowest class that has it: ``max(dim=0)``.

    Args:
        probabilities: [C, H, W].

    Returns:
        [H, W] and [H, W] int64.
    """
    num_classes = len(probabilities)
    if num_classes > BYTE_CLASSES or not reads_are_free(probabilities):
        return probabilities.max(dim=0)
    # On a CPU a maximum that keeps its index looks at numbers one by one; the maximum alone and
    # the comparison with it do not.
    flat = probabilities.flatten(1)
    highest, classes = torch.empty_like(flat[0]), torch.empty_like(flat[0], dtype=torch.int64)
    lowest_first = torch.arange(num_classes, 0, -1, dtype=torch.uint8)[:, None]
    chunk = max(1, CACHED_ELEMENTS // num_classes)
    for start in range(0, flat.shape[1], chunk):
        part = slice(start, start + chunk)
        torch.amax(flat[:, part], dim=0, out=highest[part])
        reached = (flat[:, part] == highest[part]).view(torch.uint8)
        classes[part] = reached.mul_(lowest_first).amax(dim=0)
    classes = classes.neg_().add_(num_classes).clamp_(max=num_classes - 1)  # not a number: the last
    return highest.view_as(probabilities[0]), classes.view_as(probabilities[0])


def class_mask(classes: Collection[int], num_classes: int, device: torch.device) -> Tensor:
    """[C] bool, true for these classes; made on the host and sent without waiting."""
    mask = torch.zeros(num_classes, dtype=torch.bool)
    mask[list(classes)] = True
    return mask.to(device, non_blocking=True)
