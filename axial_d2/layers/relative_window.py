"""Learned relative positions of a 2-D window, half row and half column (SASA, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RelativeWindow(nn.Module):
    """Embeddings of the offsets of a ``span`` × ``span`` window.

    The first half of the channels depends on the row offset, the second on the column offset.

    Args:
        span: odd length of the window.
        channels: even, of one head.
        std: of the embeddings at the start; default ``channels ** -0.5``.

    Raises:
        ValueError: an odd number of channels.
    """

    def __init__(self, span: int, channels: int, std: float | None = None):
        super().__init__()
        if channels % 2:
            raise ValueError(
                f"a head of {channels} channels cannot be half row and half column positions; "
                "choose a width or a number of heads that gives each head an even number."
            )
        self.row_table = nn.Parameter(torch.empty(span, channels // 2))
        self.column_table = nn.Parameter(torch.empty(span, channels // 2))
        for table in (self.row_table, self.column_table):
            nn.init.normal_(table, std=channels**-0.5 if std is None else std)

    def forward(self) -> Tensor:
        """[span, span, channels], entry (span // 2, span // 2) being offset 0, key - query."""
        span = len(self.row_table)
        return torch.cat(
            [
                self.row_table[:, None].expand(-1, span, -1),
                self.column_table[None].expand(span, -1, -1),
            ],
            dim=2,
        )
