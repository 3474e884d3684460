"""Position-sensitive attention along one axis: one signature, interchangeable implementations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from axial_d2.ops.axial_attention import blocked, cpp, reference, triton
from axial_d2.ops.axial_attention.reference import LogitMoments
from axial_d2.ops.precision import at_least_float32, without_autocast
from axial_d2.ops.terms import check_terms
from axial_d2.ops.triton_support import chooses
from torch import Tensor

IMPLEMENTATIONS = {"reference": reference, "blocked": blocked, "cpp": cpp, "triton": triton}
IMPLEMENTATION_CHOICES = ("auto", *IMPLEMENTATIONS)

__all__ = ["IMPLEMENTATION_CHOICES", "LogitMoments", "axial_attention", "logit_moments"]


def check_span(span: int, name: str = "span") -> None:
    """Raises ValueError unless ``span`` is odd, or 0 for attention over the whole axis."""
    if span < 0 or (span and span % 2 == 0):
        fault = "negative" if span < 0 else "even"
        raise ValueError(
            f"{name} {span} is {fault}; it must be odd (a window centred on the query), "
            "or 0 for global attention over the whole axis."
        )


def check_implementation(name: str) -> None:
    """Raises ValueError for an unknown implementation."""
    if name not in IMPLEMENTATION_CHOICES:
        raise ValueError(
            f"attention implementation {name!r} is unknown; choose one of {IMPLEMENTATION_CHOICES}."
        )


def _chosen(name: str, tensors: Sequence[Any]) -> str:
    """What "auto" means for these tensors: a matter of device, dtype and sizes alone."""
    check_implementation(name)
    if name != "auto":
        return name
    if chooses(*tensors):
        return "triton"
    return "blocked" if cpp.obstacle(tensors[0]) else "cpp"


def axial_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    query_table: Tensor | None,
    key_table: Tensor | None,
    value_table: Tensor | None,
    logit_scale: Tensor | None = None,
    span: int = 0,
    implementation: str = "auto",
    query_key: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """Position-sensitive attention along one axis (Axial-DeepLab, eq. 3 and 4).

    For query position i, over the keys j of its window::

        logits_ij = s_0 q_i·k_j + s_1 q_i·r^q_{j-i} + s_2 k_j·r^k_{j-i}
        content_i = sum_j softmax(logits)_ij v_j
        position_i = sum_j softmax(logits)_ij r^v_{j-i}

    The paper's output is ``content + position``; they come apart because each has a batch norm
    of its own. Batch norms on the logit terms enter as ``logit_scale``, since a softmax ignores
    their shifts. There is no division by the square root of the channels.

    Any term can be left out, for ablations: a table or the value that is None, and q·k by
    ``query_key``. A query or key that no term reads still says the shape.

    Args:
        query, key: [..., N, L, K]; the dimensions in front count lines: one, or more where an
            image's lines cannot be one dimension of a view. Any strides.
        value: [..., N, L, V], or None for no content.
        query_table, key_table: [R, K], R odd; row (R - 1) / 2 is offset 0 and the offset is
            key - query. Offsets beyond the table share its last row on that side. None leaves
            the term out.
        value_table: [R, V], or None for no position.
        logit_scale: [3, N], factors of q·k, q·r and k·r; ones if None.
        span: odd length of the window, truncated at the border, or 0 for the whole axis.
        implementation: "reference" (the definition), "blocked" (the same in cache-sized
            blocks), "cpp" (C++ kernels for CPUs, where the installation built them), "triton"
            (fused CUDA kernels) or "auto": the kernels where device, dtype and channels allow
            them, else "blocked".
        query_key: whether the logits have the term q·k; default True.

    Returns:
        content and position, each [..., N, L, V], None where left out.

    Raises:
        ValueError: an even or negative span, an unknown implementation, no logit term at all,
            nothing to retrieve, or "cpp" or "triton" for tensors that these cannot take.
    """
    check_span(span)
    check_terms(query_key, query_table, key_table, value, value_table)
    dtype = query.dtype if value is None else value.dtype
    tensors = [query, key, value, query_table, key_table, value_table, logit_scale]
    name = _chosen(implementation, tensors)
    if name != "triton":  # which multiplies half precision as it is, and sums in float32
        tensors = [at_least_float32(tensor) for tensor in tensors]
    lines = query.shape[:-3]
    with without_autocast(query):
        retrieved = IMPLEMENTATIONS[name].axial_attention(
            *_with_lines(name, tensors[:3]), *tensors[3:], span, query_key
        )
    content, position = (
        None if part is None else part.reshape(*lines, *part.shape[-3:]).to(dtype)
        for part in retrieved
    )
    return content, position


def _with_lines(name: str, features: Sequence[Tensor | None]) -> list[Tensor | None]:
    """[B, N, L, C], as most implementations want them: one dimension of lines."""
    if name == "cpp":
        return list(features)
    return [None if each is None else each.flatten(0, -4) for each in features]


def logit_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None,
    key_table: Tensor | None,
    span: int = 0,
    implementation: str = "auto",
    query_key: bool = True,
) -> LogitMoments:
    """Mean and variance of each logit term, for the batch norms in front of the softmax.

    Taken over rows, queries and the keys inside each window; differentiable; 0 for a term that
    is left out. Arguments as in :func:`axial_attention`.
    """
    check_span(span)
    tensors = [at_least_float32(tensor) for tensor in (query, key, query_table, key_table)]
    name = _chosen(implementation, tensors)
    with without_autocast(query):
        return IMPLEMENTATIONS[name].logit_moments(
            *_with_lines(name, tensors[:2]), *tensors[2:], span, query_key
        )
