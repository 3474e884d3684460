"""Which centre every pixel belongs to."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from axial_d2.postprocessing.host import reads_are_free
from torch import Tensor

# Distances held at a time, in elements: a CPU keeps them in its caches, a GPU wants few launches.
DISTANCE_ELEMENTS = 1 << 19
CUDA_DISTANCE_ELEMENTS = 1 << 24
# Side of the cells, in pixels, that a CPU looks up.
CELL = 8
# Centres compared at a time; their index takes this many bits of a float64.
INDEX_BITS = 8
FLOAT64_BITS = 53
# |c|² - 2c·t, and the index, are the sum of this many products.
NUM_FACTORS = 4
FLOAT32_EXPONENT = 0x7F800000


def group_pixels(
    centers: Tensor, offsets: Tensor, thing_mask: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Assigns every thing pixel to the centre nearest to where its offset points.

    Where it points to is rounded to steps of about 4e-6 pixels on a map of 2048 pixels (2^-40 of
    the square of its longer side). Up to that, distances are compared exactly.

    Args:
        centers: [K, 2] int64 as (y, x), in pixels, inside the map.
        offsets: [2, H, W] as (y, x), in pixels, from a pixel to its centre.
        thing_mask: [H, W] bool, the pixels to assign.
        valid: [K] bool, the centres to assign to; None (default) for all.

    Returns:
        [H, W] int64: 0 where nothing was assigned, else 1 + the centre's index. Between
        equally near centres the lower index wins. All 0 where there is no centre.
    """
    if len(centers) == 0:
        return torch.zeros_like(thing_mask, dtype=torch.int64)
    if valid is None:
        valid = torch.ones(len(centers), dtype=torch.bool, device=centers.device)
    if reads_are_free(thing_mask):
        return _group_things(_factors(centers, valid), offsets, thing_mask)
    return _group_all(_factors(centers, valid), offsets) * thing_mask


def _group_all(factors: Tensor, offsets: Tensor) -> Tensor:
    """For all pixels, by the same steps whatever is in the tensors."""
    height, width = offsets.shape[1:]
    rows = max(1, _distance_columns(factors) // width)
    parts = []
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        pixels = torch.arange(top * width, bottom * width, device=offsets.device)
        targets = _targets(pixels, offsets[:, top:bottom].flatten(1), width)
        parts.append(_nearest(factors, _in_units(targets, (height, width))))
    return torch.cat(parts).view(height, width)


def _group_things(factors: Tensor, offsets: Tensor, thing_mask: Tensor) -> Tensor:
    """For the pixels of the mask, most of them by looking up the cell they point into."""
    height, width = thing_mask.shape
    things = thing_mask.flatten().nonzero().flatten()
    targets = _targets(things, offsets.flatten(1).index_select(1, things), width)
    nearest = _nearest_of_cells(factors, targets, (height, width))
    unsure = (nearest == 0).nonzero().flatten()
    exact = _nearest(factors, _in_units(targets.index_select(1, unsure), (height, width)))
    nearest.scatter_(0, unsure, exact)
    instances = torch.zeros(height * width, dtype=torch.int64)
    return instances.scatter_(0, things, nearest).view(height, width)


def _nearest_of_cells(factors: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
    """Like :func:`_nearest`, but 0 as well where the cell is not all nearest to one centre: [P].

    What is nearest to a centre is convex. A square whose corners are nearest to one centre is so
    as a whole; ties, too, go to that centre, since one with a lower index would have had the
    corners. Beyond the map nothing is looked up.

    Args:
        factors: [K, 3].
        targets: [2, P], in pixels.
        size: of the map.
    """
    rows, columns = (-(-side // CELL) for side in size)
    corners = torch.cartesian_prod(torch.arange(rows + 1), torch.arange(columns + 1)).mT * CELL
    label = _nearest(factors, _in_units(corners.double(), size)).view(rows + 1, columns + 1)
    cells = label[:-1, :-1]
    same = (cells == label[1:, :-1]) & (cells == label[:-1, 1:]) & (cells == label[1:, 1:])
    table = F.pad(cells * same, (1, 1, 1, 1))
    last = torch.tensor([[rows], [columns]])
    row, column = (targets / CELL).floor_().clamp_(-last.new_ones(()), last).long() + 1
    return table.flatten().index_select(0, row.mul_(columns + 2).add_(column))


def _reach(size: tuple[int, int]) -> int:
    """Coordinates of centres are below 2**reach."""
    return math.ceil(math.log2(max(*size, 2)))


def _targets(pixels: Tensor, offsets: Tensor, width: int) -> Tensor:
    """Where pixels point to: [2, P] as (y, x), float64, finite.

    Args:
        pixels: [P], row-major indices.
        offsets: [2, P].
        width: of the map.
    """
    row = torch.div(pixels, width, rounding_mode="floor")
    position = torch.stack([row, pixels - row * width])
    return (position + offsets.double()).nan_to_num_()


def _in_units(targets: Tensor, size: tuple[int, int]) -> Tensor:
    """What :func:`_factors` multiply, in units u of each pixel: (y/u, x/u, 1/u, 1), [4, P].

    The units are powers of two, and y/u and x/u integers, small enough that |c|² - 2c·t in these
    units is an integer of 53 - 8 bits. A product in float64 then is exact, whatever the order of
    its sums, and has 8 bits to spare.
    """
    reach = _reach(size)
    finest = 2.0 ** (2 * reach + 5 + INDEX_BITS - FLOAT64_BITS)
    relative = 2.0 ** (reach + 4 + INDEX_BITS - FLOAT64_BITS)
    limit = 2.0 ** (FLOAT64_BITS - INDEX_BITS - 4 - reach)  # beyond it units would exceed 1
    targets = targets.clamp(-limit, limit)
    farthest = targets.abs().amax(dim=0)
    per_unit = (_power_of_two_below(farthest) * relative).clamp_(min=finest).reciprocal_()
    scaled = targets.mul_(per_unit).round_()
    return torch.cat([scaled, per_unit[None], torch.ones_like(per_unit)[None]])


def _power_of_two_below(numbers: Tensor) -> Tensor:
    """The largest power of two up to each number from 0 on; 0 for 0."""
    return (numbers.float().view(torch.int32) & FLOAT32_EXPONENT).view(torch.float32).double()


def _factors(centers: Tensor, valid: Tensor) -> Tensor:
    """[K, 3]; with :func:`_in_units` they make |c|² - 2c·t, infinite for invalid centres."""
    centers = centers.double()
    squares = torch.where(valid, centers.square().sum(dim=1), torch.inf)
    return torch.cat([-2 * centers, squares[:, None]], dim=1)


def _distance_columns(factors: Tensor) -> int:
    """How many pixels are compared with the centres at a time."""
    elements = CUDA_DISTANCE_ELEMENTS if factors.is_cuda else DISTANCE_ELEMENTS
    return max(1, elements // max(NUM_FACTORS, min(len(factors), 1 << INDEX_BITS)))


def _nearest(factors: Tensor, targets: Tensor) -> Tensor:
    """1 + index of the nearest centre, 0 if there is none: [P].

    The index being the fraction of the distance, the smallest number tells both, and of equal
    distances the lowest index: no search for the place of the minimum, which is slow.

    Args:
        factors: [K, 3].
        targets: [4, P], in units.
    """
    size = 1 << INDEX_BITS
    fractions = (torch.arange(len(factors), device=factors.device) % size).double() / size
    groups = torch.cat([factors, fractions[:, None]], dim=1).split(size)
    parts = targets.split(_distance_columns(factors), dim=1)
    return torch.cat([_nearest_of_groups(groups, part) for part in parts])


def _nearest_of_groups(groups: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    best, nearest = None, None
    for number, factors in enumerate(groups):
        keys = torch.mm(factors, targets).amin(dim=0)
        distance = keys.floor()
        index = (keys - distance) * (1 << INDEX_BITS) + (1 + (number << INDEX_BITS))
        index = torch.where(keys.isfinite(), index, 0)
        if best is not None and nearest is not None:
            closer = distance < best
            index = torch.where(closer, index, nearest)
            distance = torch.where(closer, distance, best)
        best, nearest = distance, index
    assert nearest is not None
    return nearest.long()
