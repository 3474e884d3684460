"""SASA's spatially-aware attention stem (arXiv 1906.05909, section 3.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from axial_d2.layers import build_norm
from axial_d2.layers.position_sensitive import check_heads
from axial_d2.ops.block_attention import block_attention
from detectron2.layers import CNNBlockBase
from torch import Tensor, nn

BLOCK = 4
PIXELS = BLOCK * BLOCK  # of a block
MIXTURES = 4


class ProjectionWeight(nn.Module):
    """The weight of a 1×1 convolution without bias, for an op that multiplies by it itself.

    Called, it gives the weight in the shape of its arguments; in checkpoints it is a convolution's.

    Args:
        sizes: of the outputs, such as heads and channels of a head, and last the input's channels.
    """

    def __init__(self, *sizes: int):
        super().__init__()
        self.sizes = sizes
        *outputs, in_channels = sizes
        self.weight = nn.Parameter(torch.empty(math.prod(outputs), in_channels, 1, 1))
        nn.init.normal_(self.weight, std=in_channels**-0.5)

    def forward(self) -> Tensor:
        return self.weight.view(self.sizes)


class AttentionStem(CNNBlockBase):
    """Attention inside each 4×4 block of pixels, norm, ReLU, 4×4 max-pool with stride 4.

    At pixel level, content says little; so the value projection mixes several matrices by where
    a pixel lies in its block, as a convolution's weights differ by position:
    ``v_ab = (sum_m p(a, b, m) W_V^m) x_ab``, with
    ``p(a, b, m) = softmax_m((row_a + column_b)·mixture_m)``.

    Shape: [B, in_channels, H, W] → [B, out_channels, ceil(H / 4), ceil(W / 4)], any H and W: what
    lies outside the image is neither attended to nor pooled.

    Args:
        in_channels: of the image.
        out_channels: of query, key, value and output, all heads together.
        num_heads: divides ``out_channels``; default 4.
        norm: "BN" (default), "SyncBN", "naiveSyncBN" or "FrozenBN".
        implementation: of :func:`axial_d2.ops.block_attention.block_attention`; default "auto".

    Raises:
        ValueError: heads that do not divide the channels, an unknown norm.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 64,
        *,
        num_heads: int = 4,
        norm: str = "BN",
        implementation: str = "auto",
    ):
        super().__init__(in_channels, out_channels, BLOCK)
        check_heads(num_heads, out_channels, out_channels)
        self.num_heads = num_heads
        self.implementation = implementation
        heads = (num_heads, out_channels // num_heads, in_channels)
        self.query = ProjectionWeight(*heads)
        self.key = ProjectionWeight(*heads)
        self.value = ProjectionWeight(MIXTURES, *heads)
        embedding = out_channels // num_heads
        self.row_embedding = nn.Parameter(torch.empty(BLOCK, embedding))
        self.column_embedding = nn.Parameter(torch.empty(BLOCK, embedding))
        self.mixture_embedding = nn.Parameter(torch.empty(MIXTURES, embedding))
        self.norm = build_norm(norm, out_channels)
        for table in (self.row_embedding, self.column_embedding, self.mixture_embedding):
            nn.init.normal_(table, std=embedding**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        inside = self._inside(height, width, x)
        attended = block_attention(
            self._places(x, rows, columns),
            self.query(),
            self.key(),
            self.value(),
            self.mixture_weights().flatten(0, 1),
            inside,
            self.implementation,
        ).flatten(2)  # [16, B·blocks, out_channels]
        if inside is not None or not batch:
            image = self._image(attended, batch, rows, columns)[:, :, :height, :width]
            return F.max_pool2d(F.relu_(self.norm(image)), BLOCK, ceil_mode=True)
        # The blocks as one tall image, channels last in memory.
        tall = attended.view(PIXELS, batch * rows, columns, self.out_channels).permute(0, 3, 1, 2)
        pooled = F.relu(self.norm(tall).amax(0))  # the maximum first: a 16th to rectify
        return pooled.unflatten(1, (batch, rows)).transpose(0, 1)

    def mixture_weights(self) -> Tensor:
        """p(a, b, m), [4, 4, mixtures], by row and column inside a block."""
        places = self.row_embedding[:, None] + self.column_embedding[None]
        return (places @ self.mixture_embedding.T).softmax(dim=-1)

    def _places(self, image: Tensor, rows: int, columns: int) -> Tensor:
        """[B, C, H, W] → [16, B·blocks, C], by place in the block; zeros beyond the image."""
        height, width = image.shape[2:]
        padded = F.pad(image, (0, columns * BLOCK - width, 0, rows * BLOCK - height))
        parts = padded.unflatten(3, (columns, BLOCK)).unflatten(2, (rows, BLOCK))
        return parts.permute(3, 5, 0, 2, 4, 1).flatten(2, 4).flatten(0, 1)

    def _image(self, pixels: Tensor, batch: int, rows: int, columns: int) -> Tensor:
        """[16, B·blocks, C] → [B, C, 4·rows, 4·columns]."""
        parts = pixels.view(BLOCK, BLOCK, batch, rows, columns, self.out_channels)
        return parts.permute(2, 5, 3, 0, 4, 1).flatten(4, 5).flatten(2, 3)

    def _inside(self, height: int, width: int, image: Tensor) -> Tensor | None:
        """[16, B·blocks] bool, which places are pixels of the image; None if all are."""
        if height % BLOCK == 0 and width % BLOCK == 0:
            return None
        pixels = torch.ones(1, 1, height, width, device=image.device)
        places = self._places(pixels, -(-height // BLOCK), -(-width // BLOCK))[..., 0] > 0
        return places.repeat(1, len(image))
