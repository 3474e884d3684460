"""Layers: they own parameters and normalisation; :mod:`axial_d2.ops` owns the arithmetic."""

from axial_d2.layers.axial_attention import AxialAttention
from axial_d2.layers.norm import NORM_CHOICES, build_norm

__all__ = ["NORM_CHOICES", "AxialAttention", "build_norm"]
