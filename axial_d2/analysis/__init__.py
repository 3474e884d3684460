"""Parameters, multiply-adds and activations of models, without computing them."""

from axial_d2.analysis.cost import ModelCost, ModuleCost, cost_table
from axial_d2.analysis.counter import analyze
from axial_d2.analysis.products import COUNT_BORDER_CHOICES, attention_pairs

__all__ = [
    "COUNT_BORDER_CHOICES",
    "ModelCost",
    "ModuleCost",
    "analyze",
    "attention_pairs",
    "cost_table",
]
