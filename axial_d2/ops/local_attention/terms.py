"""The three terms of the logits, block by block, and their gradients.

Shape letters as in :mod:`.shifts`; K channels of queries and keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from axial_d2.ops.local_attention.shifts import Block, Grid
from torch import Tensor

# One block's logits should stay in a CPU's cache, yet outweigh the calls that fill them; a GPU
# wants few launches.
BLOCK_BYTES = 1 << 21
CUDA_BLOCK_BYTES = 1 << 28
# Of :class:`Terms` among the arguments of an operator.
TERMS_SCHEMA = (
    "Tensor? query, Tensor? key, Tensor? query_position, Tensor? query_table, "
    "Tensor? key_position, Tensor? key_table"
)


class Terms(NamedTuple):
    """What the logits of all images or of a block are made of; or the gradients of that.

    Attributes:
        query, key: of q·k, [B, N, K, H, W], or [G, K, Q] and [G, K, S] in a block.
        query_position, query_table: of q·r, as ``query`` and [D, K].
        key_position, key_table: of k·r, as ``key`` and [D, K].

    Both are None where a term is absent.
    """

    query: Tensor | None
    key: Tensor | None
    query_position: Tensor | None
    query_table: Tensor | None
    key_position: Tensor | None
    key_table: Tensor | None

    @classmethod
    def of(
        cls,
        grid: Grid,
        query: Tensor,
        key: Tensor,
        query_table: Tensor | None,
        key_table: Tensor | None,
        query_key: bool,
    ) -> Terms:
        """Those present, from [B, N, K, H, W] features and [span, span, K] tables."""
        return cls(
            query if query_key else None,
            key if query_key else None,
            None if query_table is None else query,
            None if query_table is None else grid.table(query_table),
            None if key_table is None else key,
            None if key_table is None else grid.table(key_table),
        )

    @property
    def features(self) -> Tensor:
        """Any queries or keys that are present."""
        present = (self.query, self.query_position, self.key_position)
        return next(tensor for tensor in present if tensor is not None)

    def zeros_like(self) -> Terms:
        return Terms(*map(zeros_like, self))

    def scaled(self, scale: Tensor) -> Terms:
        """Times the factors [3, N] of q·k, q·r and k·r."""
        of_query_key, of_query_position, of_key_position = scale[..., None, None, None].unbind(0)
        return self._replace(
            query=_times(self.query, of_query_key),
            query_position=_times(self.query_position, of_query_position),
            key_position=_times(self.key_position, of_key_position),
        )

    def in_block(self, grid: Grid, block: Block) -> Terms:
        def lay(features: Tensor | None, how) -> Tensor | None:
            return None if features is None else how(features, block)

        return self._replace(
            query=lay(self.query, grid.lay_queries),
            key=lay(self.key, grid.lay_keys),
            query_position=lay(self.query_position, grid.lay_queries),
            key_position=lay(self.key_position, grid.lay_keys),
        )

    def add_block(self, grid: Grid, block: Block, part: Terms) -> None:
        """Adds the gradients of a block to these of all images."""
        for name, total, summand in zip(self._fields, self, part, strict=True):
            if total is None or summand is None:
                continue
            if name.endswith("table"):
                total += summand
            elif name.startswith("query"):
                grid.add_queries(total, block, summand)
            else:
                grid.add_keys(total, block, summand)

    def blocks(self, grid: Grid) -> Iterator[tuple[Block, Terms, Tensor]]:
        """Blocks whose logits fill about ``BLOCK_BYTES``, their terms and :meth:`Grid.border`."""
        like = self.features
        size = CUDA_BLOCK_BYTES if like.is_cuda else BLOCK_BYTES
        positions = size // (grid.offsets * like.element_size())
        rows = None
        for block in grid.blocks(like.shape[0], like.shape[1], positions):
            if block.rows != rows:
                rows = block.rows
                border = grid.border(rows, like)
            yield block, self.in_block(grid, block), border


def add_query_key(logits: Tensor, grid: Grid, terms: Terms) -> None:
    """Adds q·k to ``logits`` [G, D, Q]."""
    if terms.query is not None and terms.key is not None:
        grid.add_products(logits, terms.query, terms.key)


def add_query_position(logits: Tensor, grid: Grid, terms: Terms) -> None:
    """Adds q·r to ``logits`` [G, D, Q]."""
    if terms.query_position is not None and terms.query_table is not None:
        logits.baddbmm_(for_each_group(terms.query_table, logits), terms.query_position)


def add_key_position(logits: Tensor, grid: Grid, terms: Terms) -> None:
    """Adds k·r to ``logits`` [G, D, Q]."""
    if terms.key_position is not None and terms.key_table is not None:
        products = torch.bmm(for_each_group(terms.key_table, logits), terms.key_position)
        logits.unflatten(1, grid.window).add_(grid.diagonal(products))


ADD_TERM = (add_query_key, add_query_position, add_key_position)


def add_terms(logits: Tensor, grid: Grid, terms: Terms) -> Tensor:
    """Adds all terms to ``logits`` [G, D, Q] and returns them."""
    for add in ADD_TERM:
        add(logits, grid, terms)
    return logits


def gradients(grid: Grid, terms: Terms, upstream: Sequence[Tensor]) -> Terms:
    """Gradients of a block's terms, from those of q·k, q·r and k·r, [G, D, Q] each."""
    by_query_key, by_query_position, by_key_position = upstream
    query = key = query_position = query_table = key_position = key_table = None
    if terms.query is not None and terms.key is not None:
        query, key = torch.zeros_like(terms.query), torch.zeros_like(terms.key)
        grid.add_weighted_keys(query, by_query_key, terms.key)
        grid.add_weighted_queries(key, by_query_key, terms.query)
    if terms.query_position is not None and terms.query_table is not None:
        table = for_each_group(terms.query_table, by_query_position)
        query_position = torch.bmm(table.mT, by_query_position)
        query_table = torch.bmm(by_query_position, terms.query_position.mT).sum(0)
    if terms.key_position is not None and terms.key_table is not None:
        products = grid.from_diagonal(by_key_position)
        key_position = torch.bmm(for_each_group(terms.key_table, products).mT, products)
        key_table = torch.bmm(products, terms.key_position.mT).sum(0)
    return Terms(query, key, query_position, query_table, key_position, key_table)


def for_each_group(table: Tensor, groups: Tensor) -> Tensor:
    """The table once for each of G groups, without a copy."""
    return table.expand(len(groups), *table.shape)


def zeros_like(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.zeros_like(tensor)


def present(like: Tensor, tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """Operators return tensors; one without elements stands for what is absent."""
    return [like.new_empty(0) if tensor is None else tensor for tensor in tensors]


def absent_as_none(
    gradients: Iterable[Tensor], inputs: Iterable[Tensor | None]
) -> list[Tensor | None]:
    """Undoes :func:`present`."""
    pairs = zip(gradients, inputs, strict=True)
    return [None if given is None else gradient for gradient, given in pairs]


def _times(features: Tensor | None, factors: Tensor) -> Tensor | None:
    return None if features is None else features * factors
