"""Attention as pure functions on tensors. Knows torch, and nothing of Detectron2."""

from axial_d2.ops.axial_attention import LogitMoments, axial_attention, logit_moments
from axial_d2.ops.dual_attention import channel_attention, position_attention
from axial_d2.ops.local_attention import local_attention, local_logit_moments

__all__ = [
    "LogitMoments",
    "axial_attention",
    "channel_attention",
    "local_attention",
    "local_logit_moments",
    "logit_moments",
    "position_attention",
]
