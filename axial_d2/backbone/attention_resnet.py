"""Residual networks whose stages are attention or convolutions, on Detectron2's ResNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from axial_d2.backbone.blocks import STRIDING_CHOICES
from axial_d2.backbone.checkpointing import checkpoint_stages as make_checkpointed
from axial_d2.backbone.stages import (
    OUTPUT_CHANNELS,
    STAGE_NAMES,
    STAGE_TYPES,
    StageOptions,
    scale_channels,
)
from axial_d2.backbone.stem import STEMS
from axial_d2.layers import ALL_TERMS, POSITION_CHOICES, AttentionTerms
from axial_d2.layers.norm import check_norm
from axial_d2.layers.norm_constants import check_norm_constants, set_norm_constants
from axial_d2.ops.axial_attention import IMPLEMENTATION_CHOICES, check_span
from axial_d2.ops.local_attention import check_window
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import ResNet
from torch import Tensor

# Of the input, without an output stride.
STAGE_STRIDES = (4, 8, 16, 32)
BLOCKS_PER_STAGE = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3)}


class AttentionResNet(ResNet):
    """Residual network of any mixture of attention and convolutional stages.

    [B, C, H, W], any H and W → a dict of feature maps "stem", "res2" … "res5" of
    ``ceil(H / stride)`` rows and ``ceil(W / stride)`` columns.

    Args:
        depth: 50 ([3, 4, 6, 3] blocks), 38 ([2, 3, 5, 2]) or 26 ([1, 2, 4, 1]).
        width_multiplier: of every channel after the stem, rounded to multiples of 16; at 1.0
            the stages have 256, 512, 1024 and 2048 output channels.
        stem: a name in :mod:`.stem`.
        stem_width_multiplier: of the stem's channels; None follows ``width_multiplier``.
        striding: "subsample" or "avg_pool"; see :mod:`.blocks`.
        stage_types: one of :data:`.STAGE_TYPES` for each of res2 … res5.
        num_heads: of every attention layer but the attention stem's.
        span: odd window, or 0 for the whole axis. With the "axial" stem the stem's blocks use
            a span of 15 where this is 0. No meaning for conv and global stages.
        stage_spans: a span for each of res2 … res5; empty for ``span`` everywhere.
        max_span: axial position tables have 2·max_span - 1 rows.
        positions: of "local" stages: "relative", "absolute" or "none".
        terms: those of the attention's terms that exist. A "local" stage never has k·r and the
            value's position; a "global" stage has q·k and content alone and ignores this.
        output_stride: 32 (classification and FPN), 16 (segmentation) or 8; stages beyond it
            keep their resolution, convolutions dilated instead, attention as it is.
        out_features: names of the maps to return.
        norm: "BN", "SyncBN", "naiveSyncBN" or "FrozenBN", inside attention too.
        norm_eps, norm_momentum: of every norm, default PyTorch's 1e-5 and 0.1; DeepLab2 has 1e-3
            and 0.01. See :func:`.set_norm_constants`.
        freeze_at: number of stages to freeze, the stem being the first.
        attention_impl: "auto" or one of the op's implementations.
        checkpoint_stages: some of res2 … res5, default none: in training these keep the inputs of
            their blocks alone and compute the rest again in the backward; see
            :class:`.CheckpointedStage`.
        in_channels: of the image.

    Raises:
        ValueError: any value outside of the above; the message names the config key.
    """

    #: Where ``from_config`` reads, and errors point to.
    config_node = ""

    @configurable
    def __init__(
        self,
        *,
        depth: int,
        width_multiplier: float,
        stem: str,
        stem_width_multiplier: float | None,
        striding: str,
        stage_types: Sequence[str],
        num_heads: int,
        span: int,
        stage_spans: Sequence[int] = (),
        max_span: int = 255,
        positions: str = "relative",
        terms: AttentionTerms = ALL_TERMS,
        output_stride: int = 32,
        out_features: Sequence[str] = ("res5",),
        norm: str = "BN",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        freeze_at: int = 0,
        attention_impl: str = "auto",
        checkpoint_stages: Sequence[str] = (),
        in_channels: int = 3,
    ):
        self._check("DEPTH", depth, tuple(BLOCKS_PER_STAGE))
        self._check("STEM", stem, tuple(STEMS))
        self._check("STRIDING", striding, STRIDING_CHOICES)
        self._check("POSITIONS", positions, POSITION_CHOICES)
        self._check("OUTPUT_STRIDE", output_stride, (8, 16, 32))
        self._check("ATTENTION_IMPL", attention_impl, IMPLEMENTATION_CHOICES)
        self._check_per_stage("STAGE_TYPES", stage_types)
        for stage_type in stage_types:
            self._check("STAGE_TYPES", stage_type, tuple(STAGE_TYPES))
        self._check_positions(positions, (*stage_types, stem))
        self._check_features(out_features, freeze_at)
        self._check_checkpoint_stages(checkpoint_stages)
        self._check_positive(
            WIDTH_MULTIPLIER=width_multiplier,
            STEM_WIDTH_MULTIPLIER=stem_width_multiplier,
            NUM_HEADS=num_heads,
            MAX_SPAN=max_span,
        )
        if stage_spans:
            self._check_per_stage("STAGE_SPANS", stage_spans)
        along_axes = "axial" in (*stage_types, stem)
        for key, each in (("SPAN", span), *(("STAGE_SPANS", each) for each in stage_spans)):
            # A window has no 0 for the whole axis; which stage needs one is said further below.
            check = check_span if along_axes or each == 0 else check_window
            check(each, f"{self.config_node}.{key}")
        spans = list(stage_spans) or [span] * len(STAGE_NAMES)
        check_norm(norm, f"{self.config_node}.NORM")
        check_norm_constants(norm_eps, norm_momentum, self.config_node)

        stem_width = width_multiplier if stem_width_multiplier is None else stem_width_multiplier
        common: dict[str, Any] = {
            "num_heads": num_heads,
            "max_span": max_span,
            "norm": norm,
            "striding": striding,
            "positions": positions,
            "terms": terms,
            "implementation": attention_impl,
            "config_node": self.config_node,
        }
        stage_options = [
            StageOptions(index, width_multiplier, spans[index], dilation, **common)
            for index, dilation in enumerate(_dilations(output_stride))
        ]
        arguments = [
            STAGE_TYPES[stage_type](options)
            for stage_type, options in zip(stage_types, stage_options, strict=True)
        ]
        channels = scale_channels(STEMS[stem].channels, stem_width)
        stem_module = STEMS[stem].build(
            in_channels, channels, StageOptions(0, stem_width, span, 1, **common)
        )
        stages = []
        strides = _stage_strides(stem_module.stride, output_stride)
        for stride, num_blocks, options, block_arguments in zip(
            strides, BLOCKS_PER_STAGE[depth], stage_options, arguments, strict=True
        ):
            out_channels = options.channels(OUTPUT_CHANNELS)
            stages.append(
                ResNet.make_stage(
                    num_blocks=num_blocks,
                    stride_per_block=[stride] + [1] * (num_blocks - 1),
                    in_channels=channels,
                    out_channels=out_channels,
                    **block_arguments,
                )
            )
            channels = out_channels
        super().__init__(stem_module, stages, out_features=list(out_features), freeze_at=freeze_at)
        set_norm_constants(self, norm_eps, norm_momentum)
        make_checkpointed(self, checkpoint_stages)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if x.dim() == 4:  # else an error of Detectron2's
            # Channels last in memory: then lines of pixels are views, and nothing is transposed.
            x = x.contiguous(memory_format=torch.channels_last)
        return super().forward(x)

    @classmethod
    def node_of(cls, cfg: CfgNode) -> CfgNode:
        """The part of ``cfg`` that holds this backbone's keys."""
        node = cfg
        for name in cls.config_node.split("."):
            node = node[name]
        return node

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        node = cls.node_of(cfg)
        return {
            "depth": node.DEPTH,
            "width_multiplier": node.WIDTH_MULTIPLIER,
            "stem": node.STEM,
            "stem_width_multiplier": node.STEM_WIDTH_MULTIPLIER or None,
            "striding": node.STRIDING,
            "stage_types": node.STAGE_TYPES,
            "num_heads": node.NUM_HEADS,
            "span": node.SPAN,
            "stage_spans": node.STAGE_SPANS,
            "max_span": node.MAX_SPAN,
            "positions": node.POSITIONS,
            "terms": AttentionTerms(
                **{term.lower(): present for term, present in node.TERMS.items()}
            ),
            "output_stride": node.OUTPUT_STRIDE,
            "out_features": node.OUT_FEATURES,
            "norm": node.NORM,
            "norm_eps": node.NORM_EPS,
            "norm_momentum": node.NORM_MOMENTUM,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "attention_impl": node.ATTENTION_IMPL,
            "checkpoint_stages": node.CHECKPOINT_STAGES,
            "in_channels": input_shape.channels,
        }

    def _check(self, key: str, given: object, allowed: tuple) -> None:
        if given not in allowed:
            raise ValueError(f"{self.config_node}.{key} is {given!r}; it must be one of {allowed}.")

    def _check_per_stage(self, key: str, given: Sequence) -> None:
        if len(given) != len(STAGE_NAMES):
            raise ValueError(
                f"{self.config_node}.{key} {list(given)} has {len(given)} entries; it needs one "
                f"for each of {STAGE_NAMES}."
            )

    def _check_positions(self, positions: str, parts: Sequence[str]) -> None:
        if positions == "relative":
            return
        others = sorted({"axial", "local_ps"} & set(parts))
        if others:
            raise ValueError(
                f"{self.config_node}.POSITIONS is {positions!r}, but {others} among the stages and "
                "the stem know relative positions only; switch single terms off under "
                f"{self.config_node}.TERMS, or use the stage type local."
            )
        if "local" not in parts:
            raise ValueError(
                f"{self.config_node}.POSITIONS is {positions!r}, but no stage is local, the only "
                "type that has this choice; leave it at 'relative'."
            )

    def _check_features(self, out_features: Sequence[str], freeze_at: int) -> None:
        features = ("stem", *STAGE_NAMES)
        unknown = [name for name in out_features if name not in features]
        if unknown or not out_features:
            raise ValueError(
                f"{self.config_node}.OUT_FEATURES {list(out_features)} must name at least one of "
                f"the backbone's features {features}, and nothing else."
            )
        if not 0 <= freeze_at <= len(features):
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}; it must be between 0 (nothing) and "
                f"{len(features)} (the stem and all four stages)."
            )

    def _check_checkpoint_stages(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in STAGE_NAMES]
        if isinstance(names, str) or unknown:
            raise ValueError(
                f"{self.config_node}.CHECKPOINT_STAGES is {names!r}; it must be a list of some of "
                f"{STAGE_NAMES}, or empty to keep everything for the backward."
            )

    def _check_positive(self, **values: float | None) -> None:
        for key, value in values.items():
            if value is not None and value <= 0:
                raise ValueError(f"{self.config_node}.{key} is {value}; it must be greater than 0.")


def _stage_strides(stem_stride: int, output_stride: int) -> list[int]:
    """Strides of res2 … res5: 4, 8, 16 and 32 of the input, none beyond ``output_stride``."""
    strides, current = [], stem_stride
    for target in STAGE_STRIDES:
        stride = min(target, output_stride) // current
        strides.append(stride)
        current *= stride
    return strides


def _dilations(output_stride: int) -> list[int]:
    """What ``output_stride`` takes from the strides of res2 … res5."""
    return [max(1, target // output_stride) for target in STAGE_STRIDES]
