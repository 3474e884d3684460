"""Residual networks of convolutions at fine strides and axial attention at coarse ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from axial_d2.backbone.attention_resnet import STAGE_STRIDES, AttentionResNet
from axial_d2.backbone.checkpointing import checkpoint_stages as make_checkpointed
from axial_d2.backbone.stages import OUTPUT_CHANNELS, STAGE_NAMES, StageOptions, scale_channels
from axial_d2.layers import ALL_TERMS
from axial_d2.layers.norm import check_norm
from axial_d2.layers.norm_constants import check_norm_constants, set_norm_constants
from axial_d2.ops.axial_attention import IMPLEMENTATION_CHOICES, check_span
from detectron2.config import CfgNode, configurable
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling.backbone.resnet import ResNet

# Blocks whose input has this stride or more are axial, at any output stride.
AXIAL_STRIDE = 16
STEM_CHANNELS = 128


@dataclass(frozen=True)
class StagePlan:
    """A stage of convolutional blocks, then axial ones; either may be none.

    Args:
        out_channels: of every block.
        num_convs: how many blocks are convolutional.
        strides, drop_paths: of each block.
        conv_block, axial_block: class and further arguments of either kind, for
            ``ResNet.make_stage``; empty for a kind that does not occur.
    """

    out_channels: int
    num_convs: int
    strides: list[int]
    drop_paths: list[float]
    conv_block: dict[str, Any]
    axial_block: dict[str, Any]

    def build(self, in_channels: int) -> list[CNNBlockBase]:
        convs = self._blocks(slice(self.num_convs), in_channels, self.conv_block)
        channels = self.out_channels if convs else in_channels
        axials = self._blocks(slice(self.num_convs, None), channels, self.axial_block)
        return convs + axials

    def _blocks(
        self, which: slice, in_channels: int, arguments: dict[str, Any]
    ) -> list[CNNBlockBase]:
        strides = self.strides[which]
        if not strides:
            return []
        return ResNet.make_stage(
            num_blocks=len(strides),
            in_channels=in_channels,
            out_channels=self.out_channels,
            stride_per_block=strides,
            drop_path_per_block=self.drop_paths[which],
            **arguments,
        )


class ConvAxialResNet(AttentionResNet):
    """DeepLab2's backbones that mix both kinds of blocks within a stage.

    res2, res3 and the first block of res4 are convolutional; the rest of res4 and res5 are
    :class:`.AxialBlock`. Subclasses say which stem, convolutional blocks and channels.

    [B, C, H, W], any H and W → a dict of feature maps "stem", "res2" … "res5" of
    ``ceil(H / stride)`` rows and ``ceil(W / stride)`` columns.

    Args:
        layer_multiplier: of the number of blocks in res2 … res5, truncated to integers;
            default 1.0. Each stage keeps at least one block, or it is an error.
        width_multiplier: of every channel after the stem, rounded to multiples of 16; default
            1.0, where the stages have 256, 512, 1024 and 2048 output channels.
        stem_width_multiplier: of the stem's channels; default None follows ``width_multiplier``.
        num_heads: of every attention layer, default 8.
        span: odd window, or 0 (default) for the whole axis.
        max_span: position tables have 2·max_span - 1 rows, default 255.
        drop_path_rate: 0 (never) to below 1, default 0.2: probability that training drops the
            branch of a block at stride 32. Blocks at finer strides have
            :func:`drop_path_at`'s share of it, those finer than ``drop_path_stride`` none.
        output_stride: 32, 16 (default) or 8; stages beyond it keep their resolution.
        out_features: names of the maps to return, default those of the panoptic decoders.
        norm: "BN" (default), "SyncBN", "naiveSyncBN" or "FrozenBN", inside attention too.
        norm_eps, norm_momentum: of every norm, default 1e-3 and 0.01 as in DeepLab2; see
            :func:`.set_norm_constants`.
        freeze_at: number of stages to freeze, the stem being the first; default 0.
        attention_impl: "auto" (default) or one of the op's implementations.
        checkpoint_stages: some of res2 … res5, default none; see :class:`.CheckpointedStage`.
        in_channels: of the image, default 3.

    Raises:
        ValueError: any value outside of the above; the message names the config key.
    """

    #: Blocks of res2 … res5 before the layer multiplier.
    blocks_per_stage = (3, 4, 6, 3)
    #: Blocks whose input has a smaller stride are never dropped.
    drop_path_stride = AXIAL_STRIDE

    @configurable
    def __init__(
        self,
        *,
        layer_multiplier: float = 1.0,
        width_multiplier: float = 1.0,
        stem_width_multiplier: float | None = None,
        num_heads: int = 8,
        span: int = 0,
        max_span: int = 255,
        drop_path_rate: float = 0.2,
        output_stride: int = 16,
        out_features: Sequence[str] = ("res2", "res3", "res5"),
        norm: str = "BN",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        freeze_at: int = 0,
        attention_impl: str = "auto",
        checkpoint_stages: Sequence[str] = (),
        in_channels: int = 3,
    ):
        self._check("OUTPUT_STRIDE", output_stride, (8, 16, 32))
        self._check("ATTENTION_IMPL", attention_impl, IMPLEMENTATION_CHOICES)
        self._check_features(out_features, freeze_at)
        self._check_checkpoint_stages(checkpoint_stages)
        self._check_positive(
            LAYER_MULTIPLIER=layer_multiplier,
            WIDTH_MULTIPLIER=width_multiplier,
            STEM_WIDTH_MULTIPLIER=stem_width_multiplier,
            NUM_HEADS=num_heads,
            MAX_SPAN=max_span,
        )
        self._check_drop_path(drop_path_rate)
        check_span(span, f"{self.config_node}.SPAN")
        check_norm(norm, f"{self.config_node}.NORM")
        check_norm_constants(norm_eps, norm_momentum, self.config_node)

        common: dict[str, Any] = {
            "width": width_multiplier,
            "span": span,
            "num_heads": num_heads,
            "max_span": max_span,
            "norm": norm,
            "striding": "subsample",
            "positions": "relative",
            "terms": ALL_TERMS,
            "implementation": attention_impl,
            "config_node": self.config_node,
        }
        plans = [
            self._plan(
                StageOptions(index=index, dilation=max(1, stride // output_stride), **common),
                num_blocks,
                drop_path_rate,
            )
            for index, (stride, num_blocks) in enumerate(
                zip(STAGE_STRIDES, self._num_blocks(layer_multiplier), strict=True)
            )
        ]
        stem_width = width_multiplier if stem_width_multiplier is None else stem_width_multiplier
        stem = self.build_stem(in_channels, scale_channels(STEM_CHANNELS, stem_width), norm)
        stages, channels = [], stem.out_channels
        for plan in plans:
            stages.append(plan.build(channels))
            channels = plan.out_channels
        # AttentionResNet's own constructor makes stages of one kind of block each.
        ResNet.__init__(self, stem, stages, out_features=list(out_features), freeze_at=freeze_at)
        set_norm_constants(self, norm_eps, norm_momentum)
        make_checkpointed(self, checkpoint_stages)

    def build_stem(self, in_channels: int, out_channels: int, norm: str) -> CNNBlockBase:
        """What comes before res2, of stride 2."""
        raise NotImplementedError

    def conv_block(self, options: StageOptions) -> dict[str, Any]:
        """Class and arguments of the convolutional blocks, for ``ResNet.make_stage``."""
        raise NotImplementedError

    def axial_block(self, options: StageOptions) -> dict[str, Any]:
        """Class and arguments of the axial blocks, for ``ResNet.make_stage``."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        node = cls.node_of(cfg)
        return {
            "layer_multiplier": node.LAYER_MULTIPLIER,
            "width_multiplier": node.WIDTH_MULTIPLIER,
            "stem_width_multiplier": node.STEM_WIDTH_MULTIPLIER or None,
            "num_heads": node.NUM_HEADS,
            "span": node.SPAN,
            "max_span": node.MAX_SPAN,
            "drop_path_rate": node.DROP_PATH_RATE,
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

    def _num_blocks(self, layer_multiplier: float) -> list[int]:
        counts = [int(count * layer_multiplier) for count in self.blocks_per_stage]
        if not all(counts):
            raise ValueError(
                f"{self.config_node}.LAYER_MULTIPLIER {layer_multiplier} leaves {counts} blocks in "
                f"{STAGE_NAMES}; each stage needs at least one, so give at least "
                f"1/{min(self.blocks_per_stage)}."
            )
        return counts

    def _plan(self, options: StageOptions, num_blocks: int, drop_path_rate: float) -> StagePlan:
        stride = STAGE_STRIDES[options.index]
        input_strides = [stride // 2] + [stride] * (num_blocks - 1)
        num_convs = sum(each < AXIAL_STRIDE for each in input_strides)
        return StagePlan(
            out_channels=options.channels(OUTPUT_CHANNELS),
            num_convs=num_convs,
            strides=[2 if options.dilation == 1 else 1] + [1] * (num_blocks - 1),
            drop_paths=[
                drop_path_at(each, drop_path_rate, self.drop_path_stride) for each in input_strides
            ],
            conv_block=self.conv_block(options) if num_convs else {},
            axial_block=self.axial_block(options) if num_convs < num_blocks else {},
        )

    def _check_drop_path(self, rate: float) -> None:
        if not 0 <= rate < 1:
            raise ValueError(
                f"{self.config_node}.DROP_PATH_RATE is {rate}; it is the probability to drop the "
                "last blocks' branches in training and must be at least 0 (never) and below 1."
            )


def drop_path_at(input_stride: int, rate: float, first_stride: int) -> float:
    """DeepLab2's linear schedule: 0 at stride 2, a quarter of ``rate`` more for every doubling.

    Args:
        input_stride: of the block, in a network that goes down to stride 32 whatever its output
            stride: 2, 4, 8, 16 or 32.
        rate: probability at stride 32.
        first_stride: below it, nothing is dropped.

    Returns:
        The probability that training drops the block's branch.
    """
    if input_stride < first_stride:
        return 0.0
    return rate * (math.log2(input_stride) - 1) / 4
