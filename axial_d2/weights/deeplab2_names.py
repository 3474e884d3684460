"""Names of DeepLab2's variables beside ours, without prefix and suffix.

Ours are those inside of a backbone (``stem.…``, ``res2.0.…``), or of the whole model for the
decoders and heads. See :mod:`.deeplab2` for what surrounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from axial_d2.weights import deeplab2_layouts as layouts
from axial_d2.weights.core import unchanged
from axial_d2.weights.name_tables import Pair
from torch import Tensor

Layout = Callable[[Tensor], Tensor]

NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def norm_pairs(ours: str, theirs: str, layout: Layout = unchanged) -> list[Pair]:
    """The tensors of a batch norm; DeepLab2 counts no batches."""
    return [Pair(f"{ours}.{mine}", f"{theirs}/{name}", layout) for mine, name in NORM.items()]


def conv_pairs(ours: str, theirs: str) -> list[Pair]:
    """A convolution with its batch norm."""
    return [
        Pair(f"{ours}.weight", f"{theirs}/_conv/kernel", layouts.kernel_to_weight),
        *norm_pairs(f"{ours}.norm", f"{theirs}/_batch_norm"),
    ]


def separable_pairs(
    ours: str, theirs: str, reorder: Callable[[Layout, int], Layout] = lambda layout, _: layout
) -> list[Pair]:
    """A depthwise-separable convolution.

    Args:
        reorder: from a layout and the dimension of the input's channels in our layout to the
            layout that also orders them as ours; by default they are in one order.
    """
    depthwise, pointwise = (
        f"{theirs}/_conv1_bn_act/_depthwise",
        f"{theirs}/_conv1_bn_act/_pointwise",
    )
    return [
        Pair(
            f"{ours}.depthwise.weight",
            f"{depthwise}/_depthwise_conv/depthwise_kernel",
            reorder(layouts.depthwise_to_weight, 0),
        ),
        *norm_pairs(f"{ours}.depthwise.norm", f"{depthwise}/_batch_norm", reorder(unchanged, 0)),
        Pair(
            f"{ours}.pointwise.weight",
            f"{pointwise}/_conv/kernel",
            reorder(layouts.kernel_to_weight, 1),
        ),
        *norm_pairs(f"{ours}.pointwise.norm", f"{pointwise}/_batch_norm"),
    ]


# Three convolutions, or one.
INCEPTION_STEM = [
    *conv_pairs("stem.conv1", "_stem/_conv1_bn_act"),
    *conv_pairs("stem.conv2", "_stem/_conv2_bn_act"),
    *conv_pairs("stem.conv3", "_stem/_conv3_bn"),
]
SINGLE_STEM = conv_pairs("stem.conv1", "_stem")

AXIS = [
    Pair("qkv.weight", "qkv_kernel", layouts.matrix_to_weight),
    *norm_pairs("qkv.norm", "_batch_norm_qkv"),
    *norm_pairs("logit_norm", "_batch_norm_similarity", layouts.flat),
    *norm_pairs("retrieved_norm", "_batch_norm_retrieved_output", layouts.flat),
    Pair("query_table", "_query_rpe/embeddings"),
    Pair("key_table", "_key_rpe/embeddings"),
    Pair("value_table", "_value_rpe/embeddings"),
]
AXES = {"height_axis.": "_attention/_height_axis/", "width_axis.": "_attention/_width_axis/"}

BASIC_BLOCK = [*conv_pairs("conv1", "_conv1_bn_act"), *conv_pairs("conv2", "_conv2_bn")]
BOTTLENECK_BLOCK = [
    *conv_pairs("conv1", "_conv1_bn_act"),
    *conv_pairs("conv2", "_conv2_bn_act"),
    *conv_pairs("conv3", "_conv3_bn"),
]
AXIAL_BLOCK = [
    *conv_pairs("conv1", "_conv1_bn_act"),
    *(pair.within(ours, theirs) for ours, theirs in AXES.items() for pair in AXIS),
    *conv_pairs("conv3", "_conv3_bn"),
]
SHORTCUT = conv_pairs("shortcut", "_shortcut")


def block_pairs(tensors: Collection[str]) -> list[Pair] | None:
    """A residual block, by the names of our tensors in it; None where DeepLab2 has no such."""
    pairs = SHORTCUT if "shortcut.weight" in tensors else []
    if "height_axis.qkv.weight" in tensors:
        return [*AXIAL_BLOCK, *pairs]
    if "conv2.weight" in tensors:
        kind = BOTTLENECK_BLOCK if "conv3.weight" in tensors else BASIC_BLOCK
        return [*kind, *pairs]
    return None


def decoder_pairs(ours: str, theirs: str, low_channels: tuple[int, int]) -> list[Pair]:
    """A decoder over res5, res3 and res2.

    Args:
        ours, theirs: names of the decoder.
        low_channels: of the projections of res3 and res2.
    """
    pairs = conv_pairs(f"{ours}.res5.project_conv", f"{theirs}/_aspp/_proj_conv_bn_act")
    for number, (feature, channels) in enumerate(zip(("res3", "res2"), low_channels, strict=True)):
        stage = f"{ours}.{feature}"
        pairs += conv_pairs(f"{stage}.project_conv", f"{theirs}/_low_level_conv{number + 1}")
        pairs += separable_pairs(
            f"{stage}.fuse_conv",
            f"{theirs}/_fusion_conv{number + 1}",
            partial(_low_level_first, low_channels=channels),
        )
    return pairs


def _low_level_first(layout: Layout, dim: int, low_channels: int) -> Layout:
    return partial(layouts.low_level_first, layout=layout, low_channels=low_channels, dim=dim)


def head_pairs(head: str, predictor: str, theirs: str, last: str) -> list[Pair]:
    """A head and its last layer."""
    return [
        *separable_pairs(head, theirs),
        Pair(f"{predictor}.weight", f"{last}/kernel", layouts.kernel_to_weight),
        Pair(f"{predictor}.bias", f"{last}/bias"),
    ]


# Branch of ours → its heads: our head and predictor, DeepLab2's head and last layer.
HEADS = {
    "sem_seg_head": [
        ("head", "predictor", "semantic_head_without_last_layer", "semantic_last_layer"),
    ],
    "ins_embed_head": [
        (
            "center_head",
            "center_predictor",
            "instance_center_head_without_last_layer",
            "instance_center_head_last_layer",
        ),
        (
            "offset_head",
            "offset_predictor",
            "instance_regression_head_without_last_layer",
            "instance_regression_head_last_layer",
        ),
    ],
}
DECODERS = {"sem_seg_head": "semantic_decoder", "ins_embed_head": "instance_decoder"}


def branch_pairs(branch: str, low_channels: tuple[int, int]) -> list[Pair]:
    """The decoder and the heads of a branch."""
    pairs = decoder_pairs(f"{branch}.decoder", DECODERS[branch], low_channels)
    for head, predictor, theirs, last in HEADS[branch]:
        pairs += head_pairs(f"{branch}.{head}", f"{branch}.{predictor}", theirs, last)
    return pairs


def variables_of(branch: str) -> str:
    """Regular expression of the names of a branch's variables."""
    roots = [DECODERS[branch], *(name for head in HEADS[branch] for name in head[2:])]
    return f"^({'|'.join(roots)})/"
