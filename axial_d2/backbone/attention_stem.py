"""SASA's spatially-aware attention stem (arXiv 1906.05909, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from axial_d2.layers import build_norm
from axial_d2.layers.position_sensitive import check_heads
from detectron2.layers import CNNBlockBase, Conv2d
from torch import Tensor, nn

BLOCK = 4
PIXELS = BLOCK * BLOCK  # of a block
MIXTURES = 4
# PyTorch's fused attention fails on a GPU beyond this batch (pytorch/pytorch issue 142228).
MAX_BLOCKS_A_CALL = 65_535


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

    Raises:
        ValueError: heads that do not divide the channels, an unknown norm.
    """

    def __init__(
        self, in_channels: int = 3, out_channels: int = 64, *, num_heads: int = 4, norm: str = "BN"
    ):
        super().__init__(in_channels, out_channels, BLOCK)
        check_heads(num_heads, out_channels, out_channels)
        self.num_heads = num_heads
        self.query = Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.key = Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.value = Conv2d(in_channels, MIXTURES * out_channels, kernel_size=1, bias=False)
        embedding = out_channels // num_heads
        self.row_embedding = nn.Parameter(torch.empty(BLOCK, embedding))
        self.column_embedding = nn.Parameter(torch.empty(BLOCK, embedding))
        self.mixture_embedding = nn.Parameter(torch.empty(MIXTURES, embedding))
        self.norm = build_norm(norm, out_channels)
        for conv in (self.query, self.key, self.value):
            nn.init.normal_(conv.weight, std=in_channels**-0.5)
        for table in (self.row_embedding, self.column_embedding, self.mixture_embedding):
            nn.init.normal_(table, std=embedding**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        blocks = self._blocks(x, rows, columns)
        attended = self._attend(
            self._heads(self.query(blocks)),
            self._heads(self.key(blocks)),
            self._heads(self._values(blocks)),
            self._inside(height, width, x),
        )
        pixels = attended.transpose(1, 2).reshape(batch, rows * columns, PIXELS, self.out_channels)
        if height % BLOCK or width % BLOCK:
            image = self._image(pixels, rows, columns)[:, :, :height, :width]
            return F.max_pool2d(F.relu_(self.norm(image)), BLOCK, ceil_mode=True)
        out = F.relu_(self.norm(pixels.permute(0, 3, 1, 2)))  # [B, C, blocks, 16]
        return out.amax(3).unflatten(2, (rows, columns))

    def mixture_weights(self) -> Tensor:
        """p(a, b, m), [4, 4, mixtures], by row and column inside a block."""
        places = self.row_embedding[:, None] + self.column_embedding[None]
        return (places @ self.mixture_embedding.T).softmax(dim=-1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, inside: Tensor | None) -> Tensor:
        """Attention inside each block; all are [B·blocks, …]."""
        attended = []
        for start in range(0, query.shape[0], MAX_BLOCKS_A_CALL) or [0]:
            part = slice(start, start + MAX_BLOCKS_A_CALL)
            mask = None if inside is None else inside[part]
            attended.append(
                F.scaled_dot_product_attention(
                    query[part], key[part], value[part], attn_mask=mask, scale=1.0
                )
            )
        return torch.cat(attended)

    def _values(self, blocks: Tensor) -> Tensor:
        """[B, in_channels, blocks, 16] → [B, out_channels, blocks, 16]."""
        batch, _, number, _ = blocks.shape
        if not batch:
            return self.value(blocks)[:, : self.out_channels]
        # Places outermost: the mixtures of a place are one matrix product for all blocks.
        places = blocks.permute(3, 1, 0, 2).flatten(2)[..., None].contiguous()
        candidates = self.value(places).view(PIXELS, MIXTURES, self.out_channels * batch * number)
        weights = self.mixture_weights().to(candidates.dtype).flatten(0, 1)[:, None]  # [16, 1, M]
        values = (weights @ candidates).view(PIXELS, self.out_channels, batch, number)
        return values.permute(2, 1, 3, 0).contiguous(memory_format=torch.channels_last)

    def _blocks(self, image: Tensor, rows: int, columns: int) -> Tensor:
        """[B, C, H, W] → [B, C, blocks, 16], channels last in memory; zeros beyond the image.

        Before the projections, when there are few channels to move.
        """
        height, width = image.shape[2:]
        padded = F.pad(image, (0, columns * BLOCK - width, 0, rows * BLOCK - height))
        parts = padded.unflatten(3, (columns, BLOCK)).unflatten(2, (rows, BLOCK))
        blocks = parts.transpose(3, 4).flatten(4, 5).flatten(2, 3)
        return blocks.contiguous(memory_format=torch.channels_last)

    def _heads(self, blocks: Tensor) -> Tensor:
        """[B, C, blocks, 16] → [B·blocks, N, 16, C / N]."""
        pixels = blocks.permute(0, 2, 3, 1).unflatten(3, (self.num_heads, -1))
        return pixels.flatten(0, 1).transpose(1, 2)

    def _image(self, pixels: Tensor, rows: int, columns: int) -> Tensor:
        """[B, blocks, 16, C] → [B, C, 4·rows, 4·columns]."""
        parts = pixels.unflatten(2, (BLOCK, BLOCK)).unflatten(1, (rows, columns))
        return parts.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def _inside(self, height: int, width: int, like: Tensor) -> Tensor | None:
        """[B·blocks, 1, 1, 16] bool, which keys are pixels of the image; None if all are."""
        if height % BLOCK == 0 and width % BLOCK == 0:
            return None
        image = torch.zeros(
            -(-height // BLOCK) * BLOCK, -(-width // BLOCK) * BLOCK, device=like.device
        )
        image[:height, :width] = 1
        blocks = F.unfold(image[None, None], BLOCK, stride=BLOCK)[0].T > 0  # [blocks, 16]
        return blocks.repeat(len(like), 1)[:, None, None]
