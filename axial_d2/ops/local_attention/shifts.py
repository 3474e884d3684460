"""Images laid out row behind row, where an offset of the window is a shift.

Every row gets as many columns of padding as a window reaches to one side, and rows follow each
other without a gap: a window that leaves its row meets the padding behind it or before it. So the
keys at one offset from all queries are one slice, and the windows of all queries are a view by
strides alone. README.md beside this file has a picture.

Shape letters: B images, N heads, H rows and W columns of the image, C channels; G groups (images
times heads) of a block, Q positions of its queries, S positions of the keys that their windows
reach, D offsets of a window, *D their rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# By measurement, a product in a matrix costs so much less than one at its offset.
MATRIX_COST = 5


class Block(NamedTuple):
    """Some rows of queries of some heads of some images."""

    images: slice
    heads: slice
    rows: slice


class Grid(NamedTuple):
    """An image, and how far a window extends to each side of its query."""

    height: int
    width: int
    row_reach: int
    column_reach: int

    @classmethod
    def of(cls, features: Tensor, span: int) -> Grid:
        """Of [..., H, W] features and a window of ``span``, less offsets that no pair has."""
        height, width = features.shape[-2:]
        return cls(height, width, min(span // 2, height - 1), min(span // 2, width - 1))

    @property
    def pitch(self) -> int:
        """Positions from one row to the next."""
        return self.width + self.column_reach

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of offsets."""
        return 2 * self.row_reach + 1, 2 * self.column_reach + 1

    @property
    def offsets(self) -> int:
        """D."""
        rows, columns = self.window
        return rows * columns

    @property
    def largest_shift(self) -> int:
        """Positions from the first to the last key of a window."""
        return 2 * (self.row_reach * self.pitch + self.column_reach)

    def table(self, table: Tensor) -> Tensor:
        """The part of [span, span, C] that this grid has offsets for, [D, C]."""
        rows, columns = (
            slice(table.shape[0] // 2 - reach, table.shape[0] // 2 + reach + 1)
            for reach in (self.row_reach, self.column_reach)
        )
        return table[rows, columns].flatten(0, 1)

    def blocks(self, images: int, heads: int, positions: int) -> Iterator[Block]:
        """Blocks of about that many queries; those of the same rows follow each other."""
        rows = _even_share(self.height, positions // self.pitch)
        groups = positions // (rows * self.pitch)
        heads_of_block = _even_share(heads, groups)
        images_of_block = _even_share(images, groups // heads_of_block)
        for row in _parts(self.height, rows):
            for image in _parts(images, images_of_block):
                for head in _parts(heads, heads_of_block):
                    yield Block(image, head, row)

    def border(self, rows: slice, like: Tensor) -> Tensor:
        """[D, Q] of some rows: 0 for a query and a key in the image, minus infinity otherwise."""
        row = torch.arange(rows.start, rows.stop, device=like.device)
        column = torch.arange(self.pitch, device=like.device)
        key_row = row + _offsets(self.row_reach, like.device)
        key_column = column + _offsets(self.column_reach, like.device)
        row_inside = (key_row >= 0) & (key_row < self.height)
        column_inside = (key_column >= 0) & (key_column < self.width) & (column < self.width)
        inside = row_inside[:, None, :, None] & column_inside[None, :, None, :]
        border = torch.zeros(inside.shape, dtype=like.dtype, device=like.device)
        return border.masked_fill_(~inside, float("-inf")).flatten(2).flatten(0, 1)

    def lay_queries(self, features: Tensor, block: Block) -> Tensor:
        """The block's part of [B, N, C, H, W] as [G, C, Q], zero in the padding."""
        part = features[block.images, block.heads, :, block.rows]
        laid = part.new_zeros(*part.shape[:4], self.pitch)
        laid[..., : self.width] = part
        return laid.flatten(3).flatten(0, 1)

    def write_queries(self, features: Tensor, block: Block, laid: Tensor) -> None:
        """Puts [G, C, Q] into the block's part of [B, N, C, H, W]."""
        part = features[block.images, block.heads, :, block.rows]
        part.copy_(self._image(laid).view_as(part))

    def add_queries(self, features: Tensor, block: Block, laid: Tensor) -> None:
        """Adds [G, C, Q] to the block's part of [B, N, C, H, W]."""
        part = features[block.images, block.heads, :, block.rows]
        part += self._image(laid).view_as(part)

    def lay_keys(self, features: Tensor, block: Block) -> Tensor:
        """What the block's windows reach of [B, N, C, H, W], as [G, C, S], zero in the padding."""
        part, positions = self._reached(features, block)
        rows = block.rows.stop - block.rows.start
        laid = part.new_zeros(*part.shape[:3], rows * self.pitch + self.largest_shift)
        self._image(laid[..., positions]).copy_(part)
        return laid.flatten(0, 1)

    def add_keys(self, features: Tensor, block: Block, laid: Tensor) -> None:
        """Adds [G, C, S] to what the block's windows reach of [B, N, C, H, W]."""
        part, positions = self._reached(features, block)
        part += self._image(laid[..., positions]).view_as(part)

    def _image(self, laid: Tensor) -> Tensor:
        """Whole rows without their padding: from [..., Q] a view [..., rows, W]."""
        return laid.unflatten(-1, (-1, self.pitch))[..., : self.width]

    def _reached(self, features: Tensor, block: Block) -> tuple[Tensor, slice]:
        """The rows that exist of those that the windows reach, and where they lie among S."""
        above = block.rows.start - self.row_reach
        rows = slice(max(0, above), min(self.height, block.rows.stop + self.row_reach))
        start, stop = (
            (row - above) * self.pitch + self.column_reach for row in (rows.start, rows.stop)
        )
        return features[block.images, block.heads, :, rows], slice(start, stop)

    def windows(self, keys: Tensor) -> Tensor:
        """What each query sees at each offset: from [G, C, S] a view [G, C, *D, Q]."""
        group, channel, _ = keys.stride()
        size = (*keys.shape[:2], *self.window, keys.shape[2] - self.largest_shift)
        return keys.as_strided(size, (group, channel, self.pitch, 1, 1))

    def diagonal(self, products: Tensor) -> Tensor:
        """What each query sees at each offset of the products of all keys with all offsets.

        From [G, D, S] a view [G, *D, Q].
        """
        group, offset, _ = products.stride()
        size = (len(products), *self.window, products.shape[2] - self.largest_shift)
        return products.as_strided(
            size, (group, self.window[1] * offset + self.pitch, offset + 1, 1)
        )

    def from_diagonal(self, seen: Tensor) -> Tensor:
        """The [G, D, S], else zero, whose :meth:`diagonal` is ``seen``, [G, D, Q]."""
        groups, offsets, queries = seen.shape
        products = seen.new_zeros(groups, offsets, queries + self.largest_shift)
        self.diagonal(products).copy_(seen.unflatten(1, self.window))
        return products

    def add_products(self, total: Tensor, queries: Tensor, keys: Tensor) -> None:
        """Adds to ``total`` [G, D, Q] the products of queries [G, C, Q] and keys [G, C, S]."""
        by_offset = total.unflatten(1, self.window)
        if self._reaches_most(keys):
            by_offset += self._band(torch.bmm(queries.mT, keys))
            return
        for query, window in zip(queries.unbind(1), self.windows(keys).unbind(1), strict=True):
            by_offset.addcmul_(query[:, None, None], window)

    def add_weighted_keys(self, total: Tensor, weights: Tensor, keys: Tensor) -> None:
        """Adds to ``total`` [G, C, Q] the keys [G, C, S], weighted by [G, D, Q]."""
        if self._reaches_most(keys):
            total.baddbmm_(keys, self._from_band(weights).mT)
            return
        for weight, shifted in self._by_offset(weights, keys):
            total.addcmul_(weight, shifted)

    def add_weighted_queries(self, total: Tensor, weights: Tensor, queries: Tensor) -> None:
        """Adds to the keys ``total`` [G, C, S] the queries [G, C, Q], weighted by [G, D, Q]."""
        if self._reaches_most(total):
            total.baddbmm_(queries, self._from_band(weights))
            return
        for weight, shifted in self._by_offset(weights, total):
            shifted.addcmul_(weight, queries)

    def _reaches_most(self, keys: Tensor) -> bool:
        """Whether products of all queries with all keys cost less than those of each offset."""
        return keys.shape[2] <= MATRIX_COST * self.offsets

    def _band(self, pairs: Tensor) -> Tensor:
        """The windows in a matrix of all pairs: from [G, Q, S] a view [G, *D, Q]."""
        groups, queries, keys = pairs.shape
        return pairs.as_strided(
            (groups, *self.window, queries), (queries * keys, self.pitch, 1, keys + 1)
        )

    def _from_band(self, seen: Tensor) -> Tensor:
        """The matrix of all pairs [G, Q, S], else zero, whose band is ``seen``, [G, D, Q]."""
        groups, _, queries = seen.shape
        pairs = seen.new_zeros(groups, queries, queries + self.largest_shift)
        self._band(pairs).copy_(seen.unflatten(1, self.window))
        return pairs

    def _by_offset(self, weights: Tensor, keys: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each offset its weights [G, 1, Q] and a view of the keys there [G, C, Q]."""
        weight_rows = weights.unflatten(1, self.window)[:, None].unbind(2)
        key_rows = self.windows(keys).unbind(2)
        for weight_row, key_row in zip(weight_rows, key_rows, strict=True):
            yield from zip(weight_row.unbind(2), key_row.unbind(2), strict=True)


def _offsets(reach: int, device: torch.device) -> Tensor:
    return torch.arange(-reach, reach + 1, device=device)[:, None]


def _even_share(total: int, limit: int) -> int:
    """Size of the parts, at most ``limit`` but at least 1, that share ``total`` evenly."""
    parts = -(-total // max(1, limit))
    return -(-total // max(1, parts)) or 1


def _parts(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
