"""The two products of dual attention (DANet, section 3): over positions and over channels.

Shapes: ``B`` images, ``L`` positions, ``K`` key channels, ``C`` channels of the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from axial_d2.ops.precision import at_least_float32, without_autocast
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        tensors: Any = (at_least_float32(tensor) for tensor in (query, key, value))
        return IMPLEMENTATIONS[implementation](*tensors).to(value.dtype)


def position_weights(query: Tensor, key: Tensor) -> Tensor:
    """softmax_j(query_i · key_j), [B, queries, L], of [B, queries, K] and [B, L, K]."""
    return (query @ key.mT).softmax(dim=-1)


def _reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return position_weights(query, key) @ value


class _Blocks(torch.autograd.Function):
    """Blocks of queries one after the other; the backward computes their weights once more.

    All blocks share their buffers, since allocating some for each leaves holes in the heap.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = value.new_empty(*query.shape[:2], value.shape[2])
        for rows, energies, weights in _blocks_of(query, key):
            torch.bmm(query[:, rows], key.mT, out=energies)
            torch.softmax(energies, dim=-1, out=weights)
            torch.bmm(weights, value, out=output[:, rows])
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, output = ctx.saved_tensors
        query_gradient = torch.empty_like(query)
        key_gradient, value_gradient = torch.zeros_like(key), torch.zeros_like(value)
        for rows, energies, weights in _blocks_of(query, key):
            torch.bmm(query[:, rows], key.mT, out=energies)
            torch.softmax(energies, dim=-1, out=weights)
            value_gradient.baddbmm_(weights.mT, gradient[:, rows])
            # Of a softmax: its output times what the gradient has above its weighted mean, which
            # is the product of what was put out and its gradient.
            mean = (gradient[:, rows] * output[:, rows]).sum(dim=-1, keepdim=True)
            energy_gradient = torch.bmm(gradient[:, rows], value.mT, out=energies)
            energy_gradient.sub_(mean).mul_(weights)
            query_gradient[:, rows] = energy_gradient @ key
            key_gradient.baddbmm_(energy_gradient.mT, query[:, rows])
        return query_gradient, key_gradient, value_gradient


def _blocks_of(query: Tensor, key: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of queries, each with two buffers [B, queries, L]."""
    images, length = query.shape[:2]
    buffers = query.new_empty(2, images, min(BLOCK, length), key.shape[1])
    for start in range(0, length, BLOCK):
        size = min(BLOCK, length - start)
        yield slice(start, start + size), buffers[0, :, :size], buffers[1, :, :size]


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention, unscaled."""
    channels, missing = value.shape[-1], value.shape[-1] - key.shape[-1]
    if query.device.type == "cpu":
        # Its fused kernel for CPUs wants one number of channels; zeros add nothing.
        query, key = (F.pad(tensor, (0, max(0, missing))) for tensor in (query, key))
        value = F.pad(value, (0, max(0, -missing)))
    # The fused kernels want a dimension of heads, the channels innermost.
    query, key, value = (tensor.unsqueeze(1).contiguous() for tensor in (query, key, value))
    attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    return attended.squeeze(1)[..., :channels]


# All have the signature (query, key, value); the reference is the definition.
IMPLEMENTATIONS = {"reference": _reference, "blocked": _Blocks.apply, "fused": _fused}


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
