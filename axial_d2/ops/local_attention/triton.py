"""Attention in a window of an image in fused CUDA kernels, written in Triton.

Same results as :mod:`.reference` with neither copies of windows nor logits in memory; the backward
computes the weights again from query, key and the log-sum-exp. README.md beside this file derives
the kernels. Triton is imported when they are first called.

Inputs are float32, bfloat16 or float16; products, sums, softmax and table gradients are float32.
Gradients are the same, to the bit, in every run. float64 is refused.

Shape letters: B images, N heads, H rows, W columns, K key and V value channels a head.
"""

from __future__ import annotations

import math

from axial_d2.ops.local_attention.moments import logit_moments
from axial_d2.ops.triton_support import of_one_dtype, require
from torch import Tensor

__all__ = ["local_attention", "logit_moments"]

# Queries are numbered in 32 bits, and a tile may reach beyond the last.
LARGEST_NUMBER = 2**31 - 1024


def local_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    value_table: Tensor | None = None,
    logit_scale: Tensor | None = None,
    span: int = 7,
    query_key: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """See :func:`axial_d2.ops.local_attention`; the results' memory is [B, H, W, N, V].

    Raises:
        ValueError: tensors that the kernels cannot take; the message says why.
    """
    require(query, key, value, query_table, key_table, value_table, logit_scale)
    if math.prod(query.shape[:4]) > LARGEST_NUMBER:
        raise ValueError(
            f"query has shape {list(query.shape)}; the fused kernels take at most "
            f"{LARGEST_NUMBER} queries, all heads and images together: use smaller batches."
        )
    from axial_d2.ops.local_attention.triton_launch import fused_local_attention

    query, key, value = of_one_dtype(query, key, value)
    content, position, _ = fused_local_attention(
        query, key, value, query_table, key_table, value_table, logit_scale, span, query_key
    )
    return None if value is None else content, None if value_table is None else position
