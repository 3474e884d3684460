"""What a model costs, in total and module by module."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from tabulate import tabulate

BYTES_OF_FLOAT32 = 4


@dataclass(frozen=True)
class ModuleCost:
    """Of one module with everything inside it.

    Attributes:
        parameters: all of them, each once; running statistics are none.
        multiply_adds: one for each product of a convolution, matrix product or attention.
        activations: elements that these operators produce, those retrieved for attention.
    """

    parameters: int
    multiply_adds: int
    activations: int


COUNTS = tuple(field.name for field in fields(ModuleCost))


@dataclass(frozen=True)
class ModelCost(ModuleCost):
    """Of a model in inference on one image.

    Attributes:
        input_shape: [1, C, H, W] of the image, padded where the model pads it.
        count_border: how attention windows were counted at the border.
        depends_on_data: whether other images, or other weights, would give other counts, since
            a second stage computes on the boxes that a first one finds.
        by_module: cost of every module by its name, the whole model's being "".
        by_operator: multiply-adds of "convolution", "matrix_product" and of every attention
            term, such as "attention.query_key".
        unsupported_operators: how often an operator was met that may hold products and is not
            counted, by name; empty when the count is complete.
        uncalled_modules: modules with a matrix or kernel which this image did not reach.
    """

    input_shape: tuple[int, ...]
    count_border: str
    depends_on_data: bool
    by_module: dict[str, ModuleCost]
    by_operator: dict[str, int]
    unsupported_operators: dict[str, int]
    uncalled_modules: tuple[str, ...]

    @property
    def activation_mebibytes(self) -> float:
        """Memory of the activations in float32, in MiB."""
        return self.activations * BYTES_OF_FLOAT32 / 2**20

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        totals = {name: getattr(self, name) for name in COUNTS}
        totals["activation_mebibytes"] = self.activation_mebibytes
        rest = {key: value for key, value in asdict(self).items() if key not in COUNTS}
        return {"totals": totals, **rest}


def cost_table(cost: ModelCost, max_depth: int = 3) -> str:
    """A row for each module of at most ``max_depth`` names that costs anything.

    Parameters and activations are in millions, multiply-adds in billions.
    """
    rows = [
        [
            name or "(model)",
            module.parameters / 1e6,
            module.multiply_adds / 1e9,
            module.activations / 1e6,
        ]
        for name, module in cost.by_module.items()
        if len(name.split(".")) <= max_depth and any(vars(module).values())
    ]
    headers = ["module", "parameters (M)", "multiply-adds (B)", "activations (M)"]
    return tabulate(rows, headers, floatfmt=("", ".3f", ".3f", ".2f"))
