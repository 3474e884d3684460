"""Layers: they own parameters and normalisation; :mod:`axial_d2.ops` owns the arithmetic."""

from axial_d2.layers.axial_attention import AxialAttention
from axial_d2.layers.dual_attention import ChannelAttention, PositionAttention
from axial_d2.layers.global_attention import GlobalAttention
from axial_d2.layers.local_attention import (
    POSITION_CHOICES,
    LocalAttention,
    PositionSensitiveLocalAttention,
)
from axial_d2.layers.norm import NORM_CHOICES, build_norm
from axial_d2.layers.scale_attention import ScaleAttention
from axial_d2.layers.terms import ALL_TERMS, AttentionTerms

__all__ = [
    "ALL_TERMS",
    "NORM_CHOICES",
    "POSITION_CHOICES",
    "AttentionTerms",
    "AxialAttention",
    "ChannelAttention",
    "GlobalAttention",
    "LocalAttention",
    "PositionAttention",
    "PositionSensitiveLocalAttention",
    "ScaleAttention",
    "build_norm",
]
