"""Small checkpoints in the exact format of the authors' code, with random contents.

Written from ../shared/design.md, section 5, and nothing of axial_d2.
"""

from __future__ import annotations

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def authors_tensors(
    *,
    blocks: tuple[int, ...] = (1, 2, 4, 1),
    width: float = 0.125,
    stem_channels: int = 16,
    num_heads: int = 8,
    image_size: int = 64,
    num_classes: int = 10,
    seed: int = 0,
) -> Tensors:
    """What ``state_dict()`` gives there. The authors' 50-S: (3, 4, 6, 3), 0.5, 32, 8, 224, 1000.

    Tables are as long as the axes of square images of ``image_size``; blocks that stride attend
    before they do.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {"conv1.weight": _normal((stem_channels, 3, 7, 7), generator)}
    tensors |= _norm("bn1", stem_channels, generator)
    inputs, length = stem_channels, image_size // 4
    for layer, num_blocks in enumerate(blocks):
        inner = int(128 * 2**layer * width)
        outputs = 2 * inner
        for index in range(num_blocks):
            if layer > 0 and index == 1:
                length //= 2
            block = f"layer{layer + 1}.{index}."
            tensors[f"{block}conv_down.weight"] = _normal((inner, inputs, 1, 1), generator)
            tensors |= _norm(f"{block}bn1", inner, generator)
            for axis in ("hight_block", "width_block"):
                tensors |= _attention(f"{block}{axis}.", inner, num_heads, length, generator)
            tensors[f"{block}conv_up.weight"] = _normal((outputs, inner, 1, 1), generator)
            tensors |= _norm(f"{block}bn2", outputs, generator, gain=0.15)
            if index == 0:
                tensors[f"{block}downsample.0.weight"] = _normal((outputs, inputs, 1, 1), generator)
                tensors |= _norm(f"{block}downsample.1", outputs, generator)
            inputs = outputs
        if layer > 0 and num_blocks == 1:
            length //= 2
    tensors["fc.weight"] = _normal((num_classes, inputs), generator)
    tensors["fc.bias"] = _normal((num_classes, 1), generator)[:, 0]
    return tensors


def _attention(
    prefix: str, channels: int, num_heads: int, length: int, generator: torch.Generator
) -> Tensors:
    tables = (2 * channels // num_heads, 2 * length - 1)
    first, second = torch.meshgrid(torch.arange(length), torch.arange(length), indexing="ij")
    return {
        f"{prefix}relative": 0.5 * torch.randn(tables, generator=generator),
        f"{prefix}flatten_index": (first - second + length - 1).flatten(),
        f"{prefix}qkv_transform.weight": _normal((2 * channels, channels, 1), generator),
        **_norm(f"{prefix}bn_qkv", 2 * channels, generator),
        **_norm(f"{prefix}bn_similarity", 3 * num_heads, generator, gain=0.5),
        **_norm(f"{prefix}bn_output", 2 * channels, generator),
    }


def _norm(name: str, channels: int, generator: torch.Generator, gain: float = 1.0) -> Tensors:
    """Statistics that are neither 0 nor 1; with a gain below 1, errors do not grow with depth."""
    uniform = torch.rand(4, channels, generator=generator)
    return {
        f"{name}.weight": gain * (0.5 + uniform[0]),
        f"{name}.bias": 0.6 * uniform[1] - 0.3,
        f"{name}.running_mean": 0.6 * uniform[2] - 0.3,
        f"{name}.running_var": 0.5 + uniform[3],
        f"{name}.num_batches_tracked": torch.tensor(450_000),
    }


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    fan_in = 1
    for extent in shape[1:]:
        fan_in *= extent
    return torch.randn(shape, generator=generator) * fan_in**-0.5
