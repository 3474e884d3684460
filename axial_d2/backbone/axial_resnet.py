"""Axial-ResNet: Detectron2's ResNet with attention blocks (Axial-DeepLab, sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from axial_d2.backbone.blocks import STRIDING_CHOICES, AxialBlock
from axial_d2.backbone.stem import STEM_CHANNELS, build_stem
from axial_d2.layers.norm import check_norm
from axial_d2.ops.axial_attention import IMPLEMENTATION_CHOICES, check_span
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet

BLOCKS_PER_STAGE = {26: (1, 2, 4, 1), 50: (3, 4, 6, 3)}
STAGE_NAMES = ("res2", "res3", "res4", "res5")
# Channels at width 1.0, the paper's "L".
BOTTLENECK_CHANNELS = (128, 256, 512, 1024)
CONV_BOTTLENECK_CHANNELS = (64, 128, 256, 512)
OUTPUT_CHANNELS = (256, 512, 1024, 2048)
CHANNEL_MULTIPLE = 16
FULL_AXIAL_SPAN = 15


@dataclass(frozen=True)
class AttentionOptions:
    """What the attention layers of a backbone have in common; see :class:`AxialResNet`."""

    num_heads: int
    span: int
    max_span: int
    norm: str
    striding: str
    implementation: str

    def block_arguments(self) -> dict:
        return dict(vars(self))


def scale_channels(channels: int, multiplier: float) -> int:
    """``channels * multiplier`` to the nearest multiple of 16, at least 16."""
    return max(1, round(channels * multiplier / CHANNEL_MULTIPLE)) * CHANNEL_MULTIPLE


def _axial_stage(index: int, width: float, options: AttentionOptions) -> dict:
    return {
        "block_class": AxialBlock,
        "bottleneck_channels": scale_channels(BOTTLENECK_CHANNELS[index], width),
        **options.block_arguments(),
    }


def _conv_stage(index: int, width: float, options: AttentionOptions) -> dict:
    return {
        "block_class": BottleneckBlock,
        "bottleneck_channels": scale_channels(CONV_BOTTLENECK_CHANNELS[index], width),
        "norm": options.norm,
        "stride_in_1x1": False,
    }


# A new kind of stage is a function from (stage index, width, options) to the block class and
# the arguments that make_stage passes to it.
STAGE_TYPES: dict[str, Callable[[int, float, AttentionOptions], dict]] = {
    "axial": _axial_stage,
    "conv": _conv_stage,
}


class AxialResNet(ResNet):
    """Residual network whose 3×3 convolutions are axial attention.

    [B, C, H, W], any H and W → a dict of feature maps "stem", "res2" … "res5" of
    ``ceil(H / stride)`` rows and ``ceil(W / stride)`` columns.

    Args:
        depth: 50 (default; [3, 4, 6, 3] blocks) or 26 ([1, 2, 4, 1]).
        width_multiplier: of every channel after the stem, rounded to multiples of 16; 0.5
            (default) is the paper's S, 0.75 M, 1.0 L, 2.0 XL.
        stem: "conv7", "deeplab" (default), "inception" or "axial"; see :mod:`.stem`.
        stem_width_multiplier: of the stem's channels; None (default) follows
            ``width_multiplier``.
        striding: "subsample" (default) or "avg_pool"; see :class:`.AxialBlock`.
        stage_types: one of :data:`STAGE_TYPES` for each of res2 … res5; default all "axial".
        num_heads: default 8.
        span: odd window, or 0 (default) for the whole axis. With the "axial" stem the stem's
            blocks use a span of 15 where this is 0.
        max_span: default 255; tables have 2·max_span - 1 rows.
        output_stride: 32 (default, classification and FPN), 16 (segmentation) or 8; stages
            beyond it keep their resolution, without dilation.
        out_features: names of the maps to return; default ("res5",).
        norm: "BN" (default), "SyncBN", "naiveSyncBN" or "FrozenBN", inside attention too.
        freeze_at: number of stages to freeze, the stem being the first; default 0.
        attention_impl: "auto" (default) or one of the op's implementations.
        in_channels: of the image; default 3.

    Raises:
        ValueError: any value outside of the above; the message names the config key.
    """

    @configurable
    def __init__(
        self,
        *,
        depth: int = 50,
        width_multiplier: float = 0.5,
        stem: str = "deeplab",
        stem_width_multiplier: float | None = None,
        striding: str = "subsample",
        stage_types: Sequence[str] = ("axial",) * 4,
        num_heads: int = 8,
        span: int = 0,
        max_span: int = 255,
        output_stride: int = 32,
        out_features: Sequence[str] = ("res5",),
        norm: str = "BN",
        freeze_at: int = 0,
        attention_impl: str = "auto",
        in_channels: int = 3,
    ):
        _check("DEPTH", depth, tuple(BLOCKS_PER_STAGE))
        _check("STEM", stem, tuple(STEM_CHANNELS))
        _check("STRIDING", striding, STRIDING_CHOICES)
        _check("OUTPUT_STRIDE", output_stride, (8, 16, 32))
        _check("ATTENTION_IMPL", attention_impl, IMPLEMENTATION_CHOICES)
        _check_stages(stage_types, out_features, freeze_at)
        _check_sizes(width_multiplier, stem_width_multiplier, num_heads, max_span)
        check_span(span, "MODEL.AXIAL_RESNET.SPAN")
        check_norm(norm, "MODEL.AXIAL_RESNET.NORM")
        options = AttentionOptions(num_heads, span, max_span, norm, striding, attention_impl)
        stem_width = width_multiplier if stem_width_multiplier is None else stem_width_multiplier
        stem_channels = scale_channels(STEM_CHANNELS[stem], stem_width)
        _check_heads(stage_types, width_multiplier, num_heads)
        if stem == "axial":
            # Its first two blocks have half the stem's channels, keys half of that.
            _check_key_channels(
                f"the axial stem at width {stem_width}", stem_channels // 4, num_heads
            )

        stem_module = build_stem(stem, in_channels, stem_channels, norm, _stem_block(options))
        stages, channels = [], stem_channels
        strides = _stage_strides(stem_module.stride, output_stride)
        for index, (stage_type, num_blocks) in enumerate(
            zip(stage_types, BLOCKS_PER_STAGE[depth], strict=True)
        ):
            arguments = STAGE_TYPES[stage_type](index, width_multiplier, options)
            out_channels = scale_channels(OUTPUT_CHANNELS[index], width_multiplier)
            stages.append(
                ResNet.make_stage(
                    num_blocks=num_blocks,
                    stride_per_block=[strides[index]] + [1] * (num_blocks - 1),
                    in_channels=channels,
                    out_channels=out_channels,
                    **arguments,
                )
            )
            channels = out_channels
        super().__init__(stem_module, stages, out_features=list(out_features), freeze_at=freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        node = cfg.MODEL.AXIAL_RESNET
        return {
            "depth": node.DEPTH,
            "width_multiplier": node.WIDTH_MULTIPLIER,
            "stem": node.STEM,
            "stem_width_multiplier": node.STEM_WIDTH_MULTIPLIER or None,
            "striding": node.STRIDING,
            "stage_types": node.STAGE_TYPES,
            "num_heads": node.NUM_HEADS,
            "span": node.SPAN,
            "max_span": node.MAX_SPAN,
            "output_stride": node.OUTPUT_STRIDE,
            "out_features": node.OUT_FEATURES,
            "norm": node.NORM,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "attention_impl": node.ATTENTION_IMPL,
            "in_channels": input_shape.channels,
        }


@BACKBONE_REGISTRY.register()
def build_axial_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> AxialResNet:
    """An :class:`AxialResNet` from ``cfg.MODEL.AXIAL_RESNET`` and ``MODEL.BACKBONE.FREEZE_AT``."""
    return AxialResNet(cfg, input_shape)


def _stage_strides(stem_stride: int, output_stride: int) -> list[int]:
    """Strides of res2 … res5: 4, 8, 16 and 32 of the input, none beyond ``output_stride``."""
    strides, current = [], stem_stride
    for target in (4, 8, 16, 32):
        stride = min(target, output_stride) // current
        strides.append(stride)
        current *= stride
    return strides


def _stem_block(options: AttentionOptions) -> Callable[[int, int, int], AxialBlock]:
    stem_options = replace(options, span=options.span or FULL_AXIAL_SPAN).block_arguments()

    def make_block(in_channels: int, out_channels: int, stride: int) -> AxialBlock:
        return AxialBlock(
            in_channels,
            out_channels,
            stride=stride,
            bottleneck_channels=out_channels,
            **stem_options,
        )

    return make_block


def _check(key: str, given: object, allowed: tuple) -> None:
    if given not in allowed:
        raise ValueError(f"MODEL.AXIAL_RESNET.{key} is {given!r}; it must be one of {allowed}.")


def _check_stages(stage_types: Sequence[str], out_features: Sequence[str], freeze_at: int) -> None:
    if len(stage_types) != len(STAGE_NAMES):
        raise ValueError(
            f"MODEL.AXIAL_RESNET.STAGE_TYPES {list(stage_types)} has {len(stage_types)} entries; "
            f"it needs one for each of {STAGE_NAMES}."
        )
    for stage_type in stage_types:
        _check("STAGE_TYPES", stage_type, tuple(STAGE_TYPES))
    features = ("stem", *STAGE_NAMES)
    unknown = [name for name in out_features if name not in features]
    if unknown or not out_features:
        raise ValueError(
            f"MODEL.AXIAL_RESNET.OUT_FEATURES {list(out_features)} must name at least one of the "
            f"backbone's features {features}, and nothing else."
        )
    if not 0 <= freeze_at <= len(features):
        raise ValueError(
            f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}; it must be between 0 (nothing) and "
            f"{len(features)} (the stem and all four stages)."
        )


def _check_sizes(
    width_multiplier: float, stem_width_multiplier: float | None, num_heads: int, max_span: int
) -> None:
    positive = {
        "WIDTH_MULTIPLIER": width_multiplier,
        "NUM_HEADS": num_heads,
        "MAX_SPAN": max_span,
    }
    if stem_width_multiplier is not None:
        positive["STEM_WIDTH_MULTIPLIER"] = stem_width_multiplier
    for key, value in positive.items():
        if value <= 0:
            raise ValueError(f"MODEL.AXIAL_RESNET.{key} is {value}; it must be greater than 0.")


def _check_heads(stage_types: Sequence[str], width: float, num_heads: int) -> None:
    for index, stage_type in enumerate(stage_types):
        if stage_type == "axial":
            channels = scale_channels(BOTTLENECK_CHANNELS[index], width) // 2
            place = f"{STAGE_NAMES[index]} at MODEL.AXIAL_RESNET.WIDTH_MULTIPLIER {width}"
            _check_key_channels(place, channels, num_heads)


def _check_key_channels(place: str, channels: int, num_heads: int) -> None:
    if channels % num_heads:
        raise ValueError(
            f"MODEL.AXIAL_RESNET.NUM_HEADS {num_heads} does not divide the {channels} query and "
            f"key channels of {place}; choose a number of heads that divides them, or another "
            "width."
        )
