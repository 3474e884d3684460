"""Attention along one axis in fused CUDA kernels, written in Triton.

Same results as :mod:`.reference`, with memory O(L) a row: no logit leaves a multiprocessor, and
the backward computes the weights again from query, key and the log-sum-exp. README.md beside this
file derives the kernels. Triton is imported when they are first called.

float32 inputs are multiplied to float32's precision, or in TF32 where PyTorch's own matrix
products are (``torch.backends.cuda.matmul``); bfloat16 and float16 as they are. Sums, softmax and
table gradients are float32. Gradients are the same, to the bit, in every run. float64 is refused.

Shape letters: B rows, N heads, L positions, K key and V value channels a head, R table rows.
"""

from __future__ import annotations

from axial_d2.ops.axial_attention.blocked import logit_moments
from axial_d2.ops.triton_support import of_one_dtype, require
from torch import Tensor

__all__ = ["axial_attention", "logit_moments"]


def axial_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    query_table: Tensor | None,
    key_table: Tensor | None,
    value_table: Tensor | None,
    logit_scale: Tensor | None = None,
    span: int = 0,
    query_key: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """See :func:`axial_d2.ops.axial_attention`; any strides, memory of the results [B, L, N, V].

    Raises:
        ValueError: tensors that the kernels cannot take; the message says why.
    """
    require(query, key, value, query_table, key_table, value_table, logit_scale)
    from axial_d2.ops.axial_attention.triton_operators import fused_axial_attention

    query, key, value = of_one_dtype(query, key, value)
    content, position, _ = fused_axial_attention(
        query, key, value, query_table, key_table, value_table, logit_scale, span, query_key
    )
    return None if value is None else content, None if value_table is None else position
