"""Synthetic maps of a street's numbers: what a network might predict, known exactly."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Cityscapes' classes as Detectron2 counts them: 11 stuff, then 8 things.
NUM_STUFF, NUM_THINGS = 11, 8
THING_CLASSES = tuple(range(NUM_STUFF, NUM_STUFF + NUM_THINGS))
# Of the distance between two instances.
RADIUS = 0.28
# Below, two neighbouring cells could tie and become two centres where Detectron2 looks for them.
OFF_GRID = (0.13, 0.21)
CENTER_SIGMA = 4.0


class Scene(NamedTuple):
    """Predictions for one image of discs in front of bands.

    Attributes:
        logits: [19, h, w]; the classes stand apart by much more than the noise.
        heatmap: [h, w], peaks of 0.5 … 1 at the centres, all different.
        offsets: [2, h, w] as (y, x), in cells, with noise.
    """

    logits: Tensor
    heatmap: Tensor
    offsets: Tensor

    def to(self, device: str) -> Scene:
        return Scene(*(tensor.to(device) for tensor in self))


def make_scene(height: int, width: int, num_instances: int) -> Scene:
    """A scene in which a quarter of all cells is things, whatever the number of instances."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.arange(float(height))[:, None], torch.arange(float(width))
    spacing = math.sqrt(height * width / num_instances)
    rows = max(1, round(height / spacing))
    columns = math.ceil(num_instances / rows)
    classes = (y * NUM_STUFF / height).long().expand(height, width).clone()
    heatmap, offsets = torch.zeros(height, width), torch.zeros(2, height, width)
    radius = RADIUS * min(height / rows, width / columns)
    for number in range(num_instances):
        row, column = divmod(number, columns)
        center = [
            math.floor((place + 0.5) * side / count) + shift
            for place, side, count, shift in zip(
                (row, column), (height, width), (rows, columns), OFF_GRID, strict=True
            )
        ]
        from_center = y - center[0], x - center[1]
        square = from_center[0] ** 2 + from_center[1] ** 2
        inside = square <= max(radius, 1.0) ** 2
        classes[inside] = THING_CLASSES[number % NUM_THINGS]
        for axis in range(2):
            distance = from_center[axis].expand(height, width)
            offsets[axis][inside] = -distance[inside]
        height_of_peak = 1 - 0.5 * number / num_instances
        peak = height_of_peak * torch.exp(-square / (2 * CENTER_SIGMA**2))
        heatmap = torch.maximum(heatmap, peak)
    noise = torch.rand(NUM_STUFF + NUM_THINGS, height, width, generator=generator)
    logits = noise.scatter_add_(0, classes[None], torch.full((1, height, width), 4.0))
    offsets += torch.randn(offsets.shape, generator=generator)
    return Scene(logits, heatmap, offsets)


def disagreement(ids: Tensor, labels: Tensor) -> float:
    """Share of pixels by which two partitions into segments differ, whatever the numbers."""
    pairs, counts = torch.stack([ids.flatten(), labels.flatten()]).unique(dim=1, return_counts=True)
    shares = []
    for side in pairs:
        _, group = side.unique(return_inverse=True)
        largest = torch.zeros(int(group.max()) + 1, dtype=counts.dtype)
        largest.scatter_reduce_(0, group, counts, "amax")
        shares.append(float(largest.sum() / counts.sum()))
    return 1 - min(shares)
