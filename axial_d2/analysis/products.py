"""What an operator costs: the multiply-adds of its products, and the elements they produce.

Products are convolutions, matrix products and attention. Bias, norms, softmax, pooling,
interpolation and everything element-wise count zero, as in the papers' tables; fvcore's own
table counts norms and interpolation as well.

Handles have fvcore's signature: inputs and outputs of one operator, as values of a trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress
from math import prod
from typing import Any

from axial_d2.ops.axial_attention.reference import pairs_in_window
from fvcore.nn.jit_handles import (
    conv_flop_count,
    einsum_flop_jit,
    generic_activation_jit,
    get_shape,
)

Handle = Callable[[Sequence[Any], Sequence[Any]], Counter[str]]

COUNT_BORDER_CHOICES = ("full", "truncated")
# Which name the traced operator has depends on PyTorch and the device; all begin with query,
# key and value.
DOT_PRODUCT_ATTENTION = (
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_attention_math",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
)
# Operators that count zero, beside those that fvcore ignores itself. Whatever is neither counted
# nor here gets reported. A product written as multiplication and sum of its own goes unseen.
ELEMENTWISE = """
    abs add add_ addcmul ceil cos div div_ elu exp feature_dropout gelu hardsigmoid hardswish
    hardswish_ hardtanh hardtanh_ leaky_relu leaky_relu_ log log2 log_softmax mul mul_ neg pow
    reciprocal rsqrt rsub sigmoid sigmoid_ silu silu_ sin softmax sqrt sub tanh where
"""
NORMS_POOLING_INTERPOLATION = """
    adaptive_avg_pool2d avg_pool2d batch_norm grid_sampler group_norm instance_norm layer_norm
    max_pool2d upsample_bilinear2d upsample_nearest2d
"""
REDUCTIONS_ORDER_SHAPE = """
    amax argmax argsort im2col mT mean meshgrid min nonzero_numpy numpy_T pad repeat
    repeat_interleave
    sort sum topk unflatten
"""
IGNORED_OPERATORS = (
    *(
        f"aten::{name}"
        for names in (ELEMENTWISE, NORMS_POOLING_INTERPOLATION, REDUCTIONS_ORDER_SHAPE)
        for name in names.split()
    ),
    "torchvision::nms",
    "torchvision::roi_align",
)
SCRIPTED_WITHOUT_PRODUCTS = (
    "_batched_nms_coordinate_trick",
    "_batched_nms_vanilla",
    "heatmaps_to_keypoints",
)


def attention_pairs(lengths: Iterable[int], span: int, count_border: str = "full") -> int:
    """Number of (query, key) pairs of one head of attention over a line or an image.

    Args:
        lengths: (L,) of a line or (H, W) of an image.
        span: length of the window along each of them, or 0 for all positions.
        count_border: what a window that reaches beyond the border counts: "full", all of its
            ``span`` positions, as an implementation computes that pads with zeros; "truncated",
            those inside. With span 0 every query has L pairs either way.

    Raises:
        ValueError: an unknown ``count_border``.
    """
    check_count_border(count_border)
    if span and count_border == "full":
        return prod(length * span for length in lengths)
    return prod(pairs_in_window(length, span) for length in lengths)


def check_count_border(count_border: str) -> None:
    """Raises ValueError for an unknown way to count windows at the border."""
    if count_border not in COUNT_BORDER_CHOICES:
        raise ValueError(
            f"count_border {count_border!r} is unknown; choose one of {COUNT_BORDER_CHOICES}."
        )


def multiply_add_handles(count_border: str = "full") -> dict[str, Handle]:
    """Multiply-adds of every operator that holds products, by its name in a trace.

    Counts are called "convolution", "matrix_product", and "attention." with query_key,
    query_position, key_position, value_content or value_position.
    """
    check_count_border(count_border)
    return {
        "aten::_convolution": partial(_convolution, transposed=6),
        "aten::_convolution_mode": _convolution,
        "axial_d2::counted_convolution": partial(_convolution, transposed=3),
        "aten::linear": partial(_matrix_product, left=0),
        "aten::matmul": partial(_matrix_product, left=0),
        "aten::mm": partial(_matrix_product, left=0),
        "aten::mv": partial(_matrix_product, left=0),
        "aten::bmm": partial(_matrix_product, left=0),
        "aten::addmm": partial(_matrix_product, left=1),
        "aten::baddbmm": partial(_matrix_product, left=1),
        "aten::einsum": _einsum,
        **dict.fromkeys(DOT_PRODUCT_ATTENTION, _dot_product_attention),
        "axial_d2::counted_attention": partial(_attention, count_border=count_border),
    }


def activation_handles() -> dict[str, Handle]:
    """Elements that the same operators produce; of attention, the content and position terms."""
    handles = {
        operator: generic_activation_jit(_activation_name(operator))
        for operator in multiply_add_handles()
    }
    return handles | {"axial_d2::counted_attention": _retrieved}


def scripted_function_handle(unknown: Counter[str]) -> Handle:
    """Counts nothing, but notes scripted functions that may hold products in ``unknown``."""

    def note(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
        name = inputs[0].node().s("name")
        if name not in SCRIPTED_WITHOUT_PRODUCTS:
            unknown[f"scripted function {name}"] += 1
        return Counter()

    return note


def _convolution(
    inputs: Sequence[Any], outputs: Sequence[Any], transposed: int | None = None
) -> Counter[str]:
    """``transposed`` is the index of that flag, None for an operator that never is."""
    is_transposed = transposed is not None and inputs[transposed].toIValue()
    shapes = (_shape(value) for value in (*inputs[:2], outputs[0]))
    return Counter({"convolution": conv_flop_count(*shapes, transposed=is_transposed)})


def _matrix_product(inputs: Sequence[Any], outputs: Sequence[Any], left: int) -> Counter[str]:
    """``left`` is the index of the first factor, whose last dimension is summed over."""
    return Counter({"matrix_product": prod(_shape(outputs[0])) * _shape(inputs[left])[-1]})


def _einsum(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """Exact for two factors; more of them in the best order, as fvcore has it."""
    equation = inputs[0].toIValue().replace(" ", "")
    left, _, result = equation.partition("->")
    factors = left.split(",")
    if len(factors) == 1:
        return Counter()
    if len(factors) > 2 or "." in equation or not result:
        return Counter({"matrix_product": int(einsum_flop_jit(inputs, outputs))})
    sizes: dict[str, int] = {}
    for letters, value in zip(factors, inputs[1].node().inputs(), strict=True):
        for letter, size in zip(letters, _shape(value), strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    # What one factor alone has and the result has not is summed before the product.
    kept = (letter in result or all(letter in factor for factor in factors) for letter in sizes)
    return Counter({"matrix_product": prod(compress(sizes.values(), kept))})


def _dot_product_attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    """Of query [..., L, K], key [..., S, K] and value [..., S, V]; every query sees every key."""
    query, key, value = map(_shape, inputs[:3])
    pairs = prod(query[:-1]) * key[-2]
    return _by_term({"query_key": pairs * query[-1], "value_content": pairs * value[-1]})


def _attention(inputs: Sequence[Any], outputs: Sequence[Any], count_border: str) -> Counter[str]:
    """Of ``axial_d2::counted_attention``: for each pair K a logit term, V a retrieved term."""
    query, _, value, query_table, key_table, value_table, span, query_key = inputs
    batch, heads, *lengths, key_channels = _shape(query)
    pairs = batch * heads * attention_pairs(lengths, span.toIValue(), count_border)
    counts = {}
    if query_key.toIValue():
        counts["query_key"] = pairs * key_channels
    for term, tensor in (
        ("query_position", query_table),
        ("key_position", key_table),
        ("value_content", value),
        ("value_position", value_table),
    ):
        if (shape := get_shape(tensor)) is not None:
            counts[term] = pairs * shape[-1]
    return _by_term(counts)


def _by_term(counts: dict[str, int]) -> Counter[str]:
    return Counter({f"attention.{term}": count for term, count in counts.items()})


def _activation_name(operator: str) -> str:
    if "attention" in operator:
        return "attention"
    return "convolution" if "convolution" in operator else "matrix_product"


def _retrieved(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
    return Counter({"attention": sum(prod(_shape(value)) for value in outputs)})


def _shape(value: Any) -> list[int]:
    shape = get_shape(value)
    assert shape is not None, f"a trace without the shape of {value}"
    return shape
