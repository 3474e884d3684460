"""Self-attention among the few positions of a block, from the input's own channels.

Shape letters: P positions of a block, G blocks, N heads, C input channels, K and V channels of a
head's queries and keys, and of its values; M matrices that are mixed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from axial_d2.ops.axial_attention import axial_attention, cpp
from axial_d2.ops.precision import at_least_float32
from torch import Tensor

# PyTorch's fused attention fails on a GPU beyond this batch (pytorch/pytorch issue 142228).
MAX_BLOCKS_A_CALL = 65_535
# The logit of what is not there: far below any other, and finite, so that 0 times it is 0.
OUTSIDE = -1e30


def block_attention(
    features: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    value_weights: Tensor,
    mixture: Tensor,
    inside: Tensor | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Attention of every position over its block, with values projected by place (SASA, sec. 3.2).

    For positions i and j of a block and each head::

        logits_ij = (W_Q x_i)·(W_K x_j)
        output_i = sum_j softmax(logits)_ij (sum_m p(j, m) W_V^m) x_j

    No division by the square root of K.

    Args:
        features: [P, G, C], positions outermost, so that a place of all blocks is one matrix.
        query_weight, key_weight: [N, K, C].
        value_weights: [M, N, V, C].
        mixture: [P, M], p of each place in a block.
        inside: [P, G] bool, the positions that exist; None for all of them. What is computed
            for the others means nothing. Every block needs one that exists.
        implementation: "reference" (the definition, operation by operation), "fused" (PyTorch's
            ``scaled_dot_product_attention``), "kernels" (this package's C++ kernels for CPUs) or
            "auto": the kernels where there are any for the device, else "fused".

    Returns:
        [P, G, N, V].

    Raises:
        ValueError: an unknown implementation, or "kernels" where there are none.
    """
    if implementation == "auto":
        implementation = "fused" if cpp.obstacle(features) else "kernels"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation {implementation!r} of block attention is unknown; choose 'auto' or "
            f"one of {tuple(IMPLEMENTATIONS)}."
        )
    return IMPLEMENTATIONS[implementation](
        features, query_weight, key_weight, value_weights, mixture, inside
    )


def _reference(
    features: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    value_weights: Tensor,
    mixture: Tensor,
    inside: Tensor | None,
) -> Tensor:
    query, key = _projected(features, query_weight), _projected(features, key_weight)
    candidates = F.linear(features, value_weights.flatten(0, 2))  # all matrices at every place
    value = torch.einsum(
        "pm,pgmnv->pgnv", mixture, candidates.unflatten(2, value_weights.shape[:3])
    )
    logits = torch.einsum("ignk,jgnk->ijgn", query, key)
    if inside is not None:
        logits = logits.masked_fill(~inside[None, :, :, None], -torch.inf)
    return torch.einsum("ijgn,jgnv->ignv", logits.softmax(dim=1).to(value.dtype), value)


def _fused(
    features: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    value_weights: Tensor,
    mixture: Tensor,
    inside: Tensor | None,
) -> Tensor:
    projected = (_projected(features, weight) for weight in (query_weight, key_weight))
    value = _values(features, value_weights, mixture)
    query, key, value = (each.permute(1, 2, 0, 3) for each in (*projected, value))
    mask = None if inside is None else inside.T[:, None, None]  # [G, 1, 1, P]
    attended = []
    for start in range(0, len(query), MAX_BLOCKS_A_CALL) or [0]:
        part = slice(start, start + MAX_BLOCKS_A_CALL)
        attended.append(
            F.scaled_dot_product_attention(
                query[part],
                key[part],
                value[part],
                attn_mask=None if mask is None else mask[part],
                scale=1.0,
            )
        )
    return torch.cat(attended).permute(2, 0, 1, 3)


def _kernels(
    features: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    value_weights: Tensor,
    mixture: Tensor,
    inside: Tensor | None,
) -> Tensor:
    """A block is a line of P positions, whose keys are the features themselves.

    q·k = x_i^T (W_Q^T W_K) x_j has C products where C < K, the usual case of an image. One more
    channel puts the logits of what lies outside out of reach.
    """
    fault = cpp.obstacle(features)
    if fault is not None:
        raise ValueError(
            f'block attention\'s "kernels" cannot be used: {fault}. '
            'Choose "auto", which uses them where it can, or "fused".'
        )
    query_weight = torch.einsum("nkc,nkd->ndc", query_weight, key_weight)
    # Half precision would have no number for OUTSIDE.
    pair: Any = map(at_least_float32, (_projected(features, query_weight), features))
    query, key = pair
    if inside is not None:
        query = F.pad(query, (0, 1), value=1.0)
        outside = torch.where(inside, 0.0, OUTSIDE)
        key = torch.cat([key, outside[..., None].to(key.dtype)], dim=2)
    key = key[:, :, None].expand(query.shape)
    value = _values(features, value_weights, mixture)
    query, key, value = (each.permute(1, 2, 0, 3) for each in (query, key, value))
    content, _ = axial_attention(query, key, value, None, None, None, implementation="cpp")
    assert content is not None
    return content.permute(2, 0, 1, 3)


def _projected(features: Tensor, weight: Tensor) -> Tensor:
    """[P, G, C] by [N, K, C] → [P, G, N, K]."""
    return F.linear(features, weight.flatten(0, 1)).unflatten(2, weight.shape[:2])


def _values(features: Tensor, value_weights: Tensor, mixture: Tensor) -> Tensor:
    """[P, G, N, V], from matrices that are mixed first: one product a place, not M."""
    mixed = (mixture @ value_weights.flatten(1)).view(len(mixture), -1, features.shape[2])
    return torch.bmm(features, mixed.mT).unflatten(2, value_weights.shape[1:3])


IMPLEMENTATIONS = {"reference": _reference, "fused": _fused, "kernels": _kernels}
