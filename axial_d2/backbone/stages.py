"""The kinds of stages that a backbone is put together from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from axial_d2.backbone.blocks import (
    AxialBlock,
    GlobalBlock,
    LocalBlock,
    PositionSensitiveLocalBlock,
)
from axial_d2.backbone.conv_blocks import BottleneckBlock
from axial_d2.layers import AttentionTerms

STAGE_NAMES = ("res2", "res3", "res4", "res5")
# Channels at width 1.0.
AXIAL_BOTTLENECK_CHANNELS = (128, 256, 512, 1024)
BOTTLENECK_CHANNELS = (64, 128, 256, 512)
OUTPUT_CHANNELS = (256, 512, 1024, 2048)
CHANNEL_MULTIPLE = 16


@dataclass(frozen=True)
class StageOptions:
    """What a stage is built from.

    Args:
        index: 0 for res2 … 3 for res5.
        width: multiplier of every channel.
        span: of this stage's attention; 0 for the whole axis.
        dilation: what the output stride took from this stage's stride; attention needs none.
        num_heads, max_span, norm, striding, positions, terms, implementation: see
            :class:`.AttentionResNet`.
        config_node: that errors point to.
    """

    index: int
    width: float
    span: int
    dilation: int
    num_heads: int
    max_span: int
    norm: str
    striding: str
    positions: str
    terms: AttentionTerms
    implementation: str
    config_node: str

    def channels(self, channels_of_stages: tuple[int, ...]) -> int:
        return scale_channels(channels_of_stages[self.index], self.width)


def scale_channels(channels: int, multiplier: float) -> int:
    """``channels * multiplier`` to the nearest multiple of 16, at least 16."""
    return max(1, round(channels * multiplier / CHANNEL_MULTIPLE)) * CHANNEL_MULTIPLE


def axial_arguments(options: StageOptions) -> dict[str, Any]:
    """Arguments of an :class:`.AxialBlock` beyond its channels."""
    return {
        "num_heads": options.num_heads,
        "span": options.span,
        "max_span": options.max_span,
        "norm": options.norm,
        "striding": options.striding,
        "implementation": options.implementation,
        "terms": options.terms,
    }


def _conv(options: StageOptions) -> dict[str, Any]:
    return {
        "block_class": BottleneckBlock,
        "bottleneck_channels": options.channels(BOTTLENECK_CHANNELS),
        "norm": options.norm,
        "dilation": options.dilation,
    }


def _axial(options: StageOptions) -> dict[str, Any]:
    channels = options.channels(AXIAL_BOTTLENECK_CHANNELS)
    check_heads_divide(options, channels // 2, _place(options))
    return {
        "block_class": AxialBlock,
        "bottleneck_channels": channels,
        **axial_arguments(options),
    }


def _local(options: StageOptions) -> dict[str, Any]:
    return {
        "block_class": LocalBlock,
        "positions": options.positions,
        "terms": options.terms,
        **_window_arguments(options),
    }


def _position_sensitive_local(options: StageOptions) -> dict[str, Any]:
    return {
        "block_class": PositionSensitiveLocalBlock,
        "terms": options.terms,
        **_window_arguments(options),
    }


def _window_arguments(options: StageOptions) -> dict[str, Any]:
    if options.span == 0:
        raise ValueError(
            f"{options.config_node}: {STAGE_NAMES[options.index]} attends to a 2-D window, but its "
            "span is 0 (global); give an odd SPAN such as 7, or STAGE_SPANS, or choose the stage "
            "type global."
        )
    channels = options.channels(BOTTLENECK_CHANNELS)
    check_heads_divide(options, channels, _place(options))
    return {
        "bottleneck_channels": channels,
        "num_heads": options.num_heads,
        "span": options.span,
        "norm": options.norm,
        "striding": options.striding,
        "implementation": options.implementation,
    }


def _global(options: StageOptions) -> dict[str, Any]:
    if not (options.terms.query_key and options.terms.value_content):
        raise ValueError(
            f"{options.config_node}.TERMS switches off QUERY_KEY or VALUE_CONTENT, but "
            f"{STAGE_NAMES[options.index]} is global, which has these two terms alone; turn them "
            "on, or choose another stage type."
        )
    channels = options.channels(BOTTLENECK_CHANNELS)
    check_heads_divide(options, channels, _place(options))
    return {
        "block_class": GlobalBlock,
        "bottleneck_channels": channels,
        "num_heads": options.num_heads,
        "norm": options.norm,
        "striding": options.striding,
    }


def _place(options: StageOptions) -> str:
    width = f"{options.config_node}.WIDTH_MULTIPLIER {options.width}"
    return f"{STAGE_NAMES[options.index]} at {width}"


def check_heads_divide(options: StageOptions, channels: int, place: str) -> None:
    """Raises ValueError unless the heads divide the query and key channels of a stage or stem."""
    if channels % options.num_heads:
        raise ValueError(
            f"{options.config_node}.NUM_HEADS {options.num_heads} does not divide the {channels} "
            f"query and key channels of {place}; choose a number of heads that divides them, or "
            "another width."
        )


# A new kind of stage is a function from its options to the block class and the arguments that
# ResNet.make_stage passes to it.
STAGE_TYPES: dict[str, Callable[[StageOptions], dict[str, Any]]] = {
    "axial": _axial,
    "conv": _conv,
    "local": _local,
    "local_ps": _position_sensitive_local,
    "global": _global,
}
