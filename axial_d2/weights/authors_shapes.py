"""Names and shapes of the authors' checkpoints, which our own are exported to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from axial_d2.weights.name_tables import NORM_TENSORS, Block

Shapes = dict[str, torch.Size]
# Of the authors' training.
IMAGE_SIZE = 224


@dataclass(frozen=True)
class BlockSize:
    """Channels of a block: of its input, inside, and of its output."""

    block: Block
    inputs: int
    bottleneck: int
    outputs: int

    @property
    def strides(self) -> bool:
        """Whether the block halves the resolution: the first of each stage but res2."""
        return self.block.index == 0 and self.block.stage > 2


def table_length(block: Block, image_size: int = IMAGE_SIZE) -> int:
    """Positions of a block's tables: the side of its input; blocks stride after attention."""
    before = block.stage - 1 if block.index == 0 and block.stage > 2 else block.stage
    stride = 2**before
    return -(-image_size // stride)


def authors_shapes(
    stem_channels: int,
    blocks: Sequence[BlockSize],
    num_heads: int,
    num_classes: int = 0,
    image_size: int = IMAGE_SIZE,
) -> Shapes:
    """Every tensor of a checkpoint of the authors' code.

    Args:
        stem_channels: of the 7×7 convolution.
        blocks: in order.
        num_heads: of every attention layer.
        num_classes: of the last layer; default 0, none.
        image_size: side of the training images, which the tables are made for; default 224.
    """
    shapes = {"conv1.weight": (stem_channels, 3, 7, 7), **_norm("bn1", stem_channels)}
    for size in blocks:
        length = table_length(size.block, image_size)
        inside = _block(size, num_heads, length)
        shapes |= {size.block.theirs + name: shape for name, shape in inside.items()}
    if num_classes:
        shapes["fc.weight"] = (num_classes, blocks[-1].outputs)
        shapes["fc.bias"] = (num_classes,)
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def _block(size: BlockSize, num_heads: int, length: int) -> dict[str, tuple[int, ...]]:
    inner = size.bottleneck
    shapes: dict[str, tuple[int, ...]] = {
        "conv_down.weight": (inner, size.inputs, 1, 1),
        **_norm("bn1", inner),
    }
    for axis in ("hight_block", "width_block"):
        shapes |= {f"{axis}.{n}": s for n, s in _attention(inner, num_heads, length).items()}
    shapes |= {"conv_up.weight": (size.outputs, inner, 1, 1), **_norm("bn2", size.outputs)}
    if size.strides or size.inputs != size.outputs:
        shapes["downsample.0.weight"] = (size.outputs, size.inputs, 1, 1)
        shapes |= _norm("downsample.1", size.outputs)
    return shapes


def _attention(channels: int, num_heads: int, length: int) -> dict[str, tuple[int, ...]]:
    return {
        "relative": (2 * channels // num_heads, 2 * length - 1),
        "flatten_index": (length**2,),
        "qkv_transform.weight": (2 * channels, channels, 1),
        **_norm("bn_qkv", 2 * channels),
        **_norm("bn_similarity", 3 * num_heads),
        **_norm("bn_output", 2 * channels),
    }


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.{tensor}": () if tensor == "num_batches_tracked" else (channels,)
        for tensor in NORM_TENSORS
    }
