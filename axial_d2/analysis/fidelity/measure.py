"""Builds the models of the published tables and counts them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from axial_d2.analysis import ModelCost, analyze
from axial_d2.analysis.fidelity.tables import Options, PublishedModel, PublishedTable
from axial_d2.engine.setup import load_config


@dataclass(frozen=True)
class Measured:
    """A published model and what ours costs.

    Attributes:
        published: the row of the table.
        parameters: of ours, or of its ``parts``.
        multiply_adds: likewise.
    """

    published: PublishedModel
    parameters: int
    multiply_adds: int

    @property
    def exact(self) -> bool:
        """Whether the published number of parameters is exact."""
        return isinstance(self.published.parameters, int)

    @property
    def parameter_ratio(self) -> float | None:
        """Ours over the published number of parameters."""
        published = self.published.parameters
        if published is None:
            return None
        return self.parameters / (published if self.exact else published * 1e6)

    @property
    def multiply_add_ratio(self) -> float | None:
        """Ours over the published multiply-adds."""
        if self.published.multiply_adds is None:
            return None
        return self.multiply_adds / (self.published.multiply_adds * 1e9)


def measure(model: PublishedModel, config_root: Path, *, count_border: str = "full") -> Measured:
    """Builds a published model without memory for its weights, and counts it.

    Args:
        config_root: the folder ``configs``.
        count_border: of :func:`axial_d2.analysis.analyze`.
    """
    config_file = str(config_root / model.config_file)
    cost = _cost(config_file, model.options, model.input_size, count_border)
    parts = [cost.by_module[name] for name in model.parts] or [cost]
    return Measured(
        model,
        sum(part.parameters for part in parts),
        sum(part.multiply_adds for part in parts),
    )


@functools.cache
def _cost(
    config_file: str, options: Options, input_size: tuple[int, int], count_border: str
) -> ModelCost:
    cfg = load_config(config_file, [*options])
    return analyze(cfg, input_size, count_border=count_border)


def measure_tables(
    tables: tuple[PublishedTable, ...], config_root: Path, *, count_border: str = "full"
) -> Iterator[tuple[PublishedTable, list[Measured]]]:
    """Every table with its rows measured, one table after the other."""
    for table in tables:
        yield (
            table,
            [measure(model, config_root, count_border=count_border) for model in table.models],
        )
