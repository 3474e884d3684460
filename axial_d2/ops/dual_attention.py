"""The two products of dual attention (DANet, section 3): over positions and over channels.

Shapes: ``B`` images, ``L`` positions, ``K`` key channels, ``C`` channels of the features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from axial_d2.ops.precision import at_least_float32, without_autocast
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHANNEL_SOFTMAX_CHOICES = ("energy", "reversed_energy")
# Queries whose weights are in memory at a time.
BLOCK = 256


def position_attention(
    query: Tensor, key: Tensor, value: Tensor, implementation: str = "auto"
) -> Tensor:
    """Σ_j softmax_j(query_i · key_j) value_j for every position i (DANet, eq. 1 and 2).

    No division by the square root of K. Of the [L, L] weights at most :data:`BLOCK` rows are in
    memory at a time, in the backward too, but with "reference".

    Args:
        query, key: [B, L, K].
        value: [B, L, C].
        implementation: "auto" (default; "blocked" on CPUs, else "fused"), or one of
            :data:`IMPLEMENTATIONS`. All compute the same, in float32 or more.

    Returns:
        [B, L, C], of ``value``'s dtype.

    Raises:
        ValueError: an unknown implementation.
    """
    if implementation == "auto":
        implementation = "blocked" if query.device.type == "cpu" else "fused"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation {implementation!r} of position attention is unknown; choose 'auto' or "
            f"one of {tuple(IMPLEMENTATIONS)}."
        )
    with without_autocast(value):
        tensors = (at_least_float32(tensor) for tensor in (query, key, value))
        return IMPLEMENTATIONS[implementation](*tensors).to(value.dtype)


def position_weights(query: Tensor, key: Tensor) -> Tensor:
    """softmax_j(query_i · key_j), [B, queries, L], of [B, queries, K] and [B, L, K]."""
    return (query @ key.mT).softmax(dim=-1)


def _reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return position_weights(query, key) @ value


def _blocked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Blocks of queries; the backward computes their weights once more."""
    attend: Callable = _reference
    if torch.is_grad_enabled():

        def attend(*block: Tensor) -> Tensor:
            return checkpoint(_reference, *block, use_reentrant=False, preserve_rng_state=False)

    return torch.cat([attend(block, key, value) for block in query.split(BLOCK, dim=1)], dim=1)


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention, unscaled."""
    channels, missing = value.shape[-1], value.shape[-1] - key.shape[-1]
    if query.device.type == "cpu":
        # Its fused kernel for CPUs wants one number of channels; zeros add nothing.
        query, key = (F.pad(tensor, (0, max(0, missing))) for tensor in (query, key))
        value = F.pad(value, (0, max(0, -missing)))
    # The fused kernels want a dimension of heads, the channels innermost.
    tensors = (tensor.unsqueeze(1).contiguous() for tensor in (query, key, value))
    return F.scaled_dot_product_attention(*tensors, scale=1.0).squeeze(1)[..., :channels]


# All have the signature (query, key, value); the reference is the definition.
IMPLEMENTATIONS = {"reference": _reference, "blocked": _blocked, "fused": _fused}


def channel_attention(features: Tensor, softmax: str = "energy") -> Tensor:
    """Σ_j x_ij features_j for every channel i, x from the channels' products (DANet, eq. 3, 4).

    Args:
        features: [B, C, L].
        softmax: see :func:`channel_weights`.

    Returns:
        [B, C, L], of ``features``' dtype.
    """
    with without_autocast(features):
        exact = at_least_float32(features)
        assert exact is not None
        return (channel_weights(exact, softmax) @ exact).to(features.dtype)


def channel_weights(features: Tensor, softmax: str = "energy") -> Tensor:
    """How much of channel j is in the attended channel i, [B, C, C]; rows sum to one.

    The energies are the products of channels, summed over the positions.

    Args:
        features: [B, C, L].
        softmax: "energy" (default), of the energies as in the paper, so that similar channels
            weigh most; "reversed_energy", of the row's largest energy minus the energies as in
            the released code, so that dissimilar ones do.

    Raises:
        ValueError: another ``softmax``.
    """
    if softmax not in CHANNEL_SOFTMAX_CHOICES:
        raise ValueError(
            f"the softmax of channel attention is {softmax!r}; it must be one of "
            f"{CHANNEL_SOFTMAX_CHOICES}."
        )
    energy = features @ features.mT
    # A softmax ignores what is added to a whole row, the largest energy included.
    return (energy if softmax == "energy" else -energy).softmax(dim=-1)
