"""Attention in a window of an image: one signature, interchangeable implementations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from axial_d2.ops.axial_attention import LogitMoments
from axial_d2.ops.axial_attention.cpp import obstacle
from axial_d2.ops.local_attention import blocked, cpp, reference, triton
from axial_d2.ops.precision import at_least_float32, without_autocast
from axial_d2.ops.terms import check_terms
from axial_d2.ops.triton_support import chooses
from torch import Tensor

IMPLEMENTATIONS = {"reference": reference, "blocked": blocked, "cpp": cpp, "triton": triton}
IMPLEMENTATION_CHOICES = ("auto", *IMPLEMENTATIONS)
# Beyond, the C++ backward's memory grows with the span's cube, and matrix products catch up.
MAX_CPP_SPAN = 21

__all__ = [
    "IMPLEMENTATION_CHOICES",
    "check_implementation",
    "check_window",
    "local_attention",
    "local_logit_moments",
]


def check_window(span: int, name: str = "span") -> None:
    """Raises ValueError unless ``span`` is odd and positive."""
    if span < 1 or span % 2 == 0:
        fault = "negative" if span < 0 else "even"
        raise ValueError(
            f"{name} {span} is {fault}; for 2-D local attention it must be odd and at least 1 "
            '(a window centred on the query). Global 2-D attention is the stage type "global".'
        )


def check_implementation(name: str) -> None:
    """Raises ValueError for an unknown implementation."""
    if name not in IMPLEMENTATION_CHOICES:
        raise ValueError(
            f"local attention implementation {name!r} is unknown; "
            f"choose one of {IMPLEMENTATION_CHOICES}."
        )


def _chosen(name: str, tensors: Sequence[Any], span: int = 7) -> str:
    """What "auto" means for these tensors: a matter of device, dtype and sizes alone."""
    check_implementation(name)
    if name != "auto":
        return name
    if chooses(*tensors):
        return "triton"
    return "cpp" if _takes_cpp(tensors[0], span) else "blocked"


def _takes_cpp(query: Tensor, span: int) -> bool:
    return span <= MAX_CPP_SPAN and obstacle(query) is None


def _check_table(name: str, table: Tensor | None, span: int, channels: int | None) -> None:
    if table is None:
        return
    given = tuple(table.shape)
    if len(given) != 3 or given[:2] != (span, span) or channels not in (None, given[2]):
        wanted = f"[{span}, {span}, {'channels' if channels is None else channels}]"
        raise ValueError(
            f"{name} has shape {list(given)}; with span {span} it must be {wanted}: one vector "
            "for each offset of the window."
        )


def _check_logits(
    query: Tensor, key: Tensor, query_table: Tensor | None, key_table: Tensor | None, span: int
) -> None:
    check_window(span)
    if query.dim() != 5 or key.shape != query.shape:
        raise ValueError(
            f"query has shape {list(query.shape)} and key {list(key.shape)}; both must be "
            "[batch, heads, height, width, channels]."
        )
    _check_table("query_table", query_table, span, query.shape[4])
    _check_table("key_table", key_table, span, key.shape[4])


def _check_values(query: Tensor, value: Tensor | None, table: Tensor | None, span: int) -> None:
    if value is not None and (value.dim() != 5 or value.shape[:4] != query.shape[:4]):
        raise ValueError(
            f"value has shape {list(value.shape)}; all but its channels must be as in query, "
            f"{list(query.shape)}."
        )
    _check_table("value_table", table, span, None if value is None else value.shape[4])


def local_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    value_table: Tensor | None = None,
    logit_scale: Tensor | None = None,
    span: int = 7,
    implementation: str = "auto",
    query_key: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """Attention of every position to the span × span window around it.

    For query position i, over the keys j of its window::

        logits_ij = s_0 q_i·k_j + s_1 q_i·r^q_{j-i} + s_2 k_j·r^k_{j-i}
        content_i = sum_j softmax(logits)_ij v_j
        position_i = sum_j softmax(logits)_ij r^v_{j-i}

    Stand-alone self-attention (SASA, arXiv 1906.05909, eq. 2) is q·k + q·r with content alone;
    position-sensitive attention (Axial-DeepLab, eq. 3) has all terms. There is no division by
    the square root of the channels. Windows are truncated at the border, not shifted.

    Args:
        query, key: [B, N, H, W, K].
        value: [B, N, H, W, V], or None for no content.
        query_table, key_table: [span, span, K], indexed by row and column of the offset
            key - query, plus span // 2; None (default) for a term that is absent.
        value_table: [span, span, V] alike; None (default) for no position.
        logit_scale: [3, N], factors of q·k, q·r and k·r; ones if None (default). Those of absent
            terms do not count.
        span: odd length of the window's side; default 7.
        implementation: "reference" (the definition), "blocked" (the same, a few tiles of the
            image at a time), "cpp" (C++ kernels for CPUs, where the installation built them),
            "triton" (fused CUDA kernels) or "auto": the kernels where device, dtype and channels
            allow them (C++ up to a span of 21), else "blocked".
        query_key: whether q·k exists; default true.

    Returns:
        content and position, each [B, N, H, W, V] in the dtype of ``value`` (of ``query`` without
        values), or None if absent.

    Raises:
        ValueError: an even or non-positive span, tables that do not fit it, no logit term,
            nothing to retrieve, shapes that differ, an unknown implementation, or "cpp" or "triton"
            for tensors that the kernels cannot take.
    """
    check_terms(query_key, query_table, key_table, value, value_table)
    _check_logits(query, key, query_table, key_table, span)
    _check_values(query, value, value_table, span)
    dtype = query.dtype if value is None else value.dtype
    tensors = [query, key, value, query_table, key_table, value_table, logit_scale]
    name = _chosen(implementation, tensors, span)
    if name != "triton":  # which loads half precision as it is, and computes in float32
        tensors = [at_least_float32(tensor) for tensor in tensors]
    with without_autocast(query):
        retrieved = IMPLEMENTATIONS[name].local_attention(*tensors, span, query_key)
    content, position = (None if part is None else part.to(dtype) for part in retrieved)
    return content, position


def local_logit_moments(
    query: Tensor,
    key: Tensor,
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    span: int = 7,
    implementation: str = "auto",
    query_key: bool = True,
) -> LogitMoments:
    """Mean and variance of each logit term, for the batch norms in front of the softmax.

    Taken over images, queries and the keys inside each window; differentiable; 0 for a term that
    is left out, and for an empty batch. Arguments as in :func:`local_attention`.
    """
    _check_logits(query, key, query_table, key_table, span)
    check_implementation(implementation)
    tensors = (query, key, query_table, key_table)
    name = implementation
    if name == "auto":
        name = "cpp" if _takes_cpp(query, span) else "blocked"  # "triton" has the same
    with without_autocast(query):
        return IMPLEMENTATIONS[name].logit_moments(*map(at_least_float32, tensors), span, query_key)
