"""What position-sensitive attention on one axis and on a 2-D window have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from axial_d2.layers.folding import FoldingConv2d
from axial_d2.layers.norm import (
    build_norm,
    logit_norm_scale,
    normalise,
    running_affine,
    uses_batch_statistics,
    with_plain_gradient,
)
from axial_d2.layers.terms import ALL_TERMS, AttentionTerms
from axial_d2.ops import LogitMoments
from torch import Tensor, nn


class PositionSensitiveAttention(nn.Module):
    """Projection and batch norms of position-sensitive attention (Axial-DeepLab, eq. 3).

    Batch norms, none of them followed by a bias anywhere: on the projected query, key and value;
    on each logit term of each head; on the retrieved content and position terms, channel by
    channel, before they are added. The projection packs query | key | value, heads outermost.

    Subclasses own the position tables and the layout that their op wants.

    Args:
        in_channels: channels of the input.
        key_channels: channels of query and of key, all heads together.
        value_channels: channels of value and of the output, all heads together.
        num_heads: divides ``key_channels`` and ``value_channels``.
        norm: "BN", "SyncBN", "naiveSyncBN" or "FrozenBN".
        terms: those of the five that exist.

    Raises:
        ValueError: heads that do not divide the channels, an unknown norm.
    """

    def __init__(
        self,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        *,
        num_heads: int,
        norm: str,
        terms: AttentionTerms = ALL_TERMS,
    ):
        super().__init__()
        check_heads(num_heads, key_channels, value_channels)
        self.num_heads = num_heads
        self.key_channels = key_channels
        self.value_channels = value_channels
        self.terms = terms
        self.projected_channels = (
            key_channels if terms.query else 0,
            key_channels if terms.key else 0,
            value_channels if terms.value_content else 0,
        )
        projected = sum(self.projected_channels)
        self.qkv = FoldingConv2d(
            in_channels, projected, kernel_size=1, bias=False, norm=build_norm(norm, projected)
        )
        # Twice as many channels as the input has, and cheap: not worth keeping twice.
        self.qkv.recomputes = True
        self.logit_norm = build_norm(norm, sum(terms.logits) * num_heads)
        self.retrieved_norm = build_norm(norm, sum(terms.retrieved) * value_channels)

    def reset_projection(self) -> None:
        """Unit variance of query, key and value for inputs of unit variance."""
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_channels**-0.5)

    @property
    def folds(self) -> bool:
        """Whether no norm looks at the batch, so that all of them fold into the projection."""
        norms = (self.qkv.norm, self.logit_norm, self.retrieved_norm)
        return not any(uses_batch_statistics(norm) for norm in norms)

    def project(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] → query | key | value, [B, C, H, W]."""
        if self.folds:
            return self.qkv(x, *self._folded_content())
        qkv = self.qkv(x)
        return with_plain_gradient(qkv) if 1 in qkv.shape[2:] else qkv

    def stand_in(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Query, key and value from those of them that exist.

        Where no term reads the query, or the key, the other stands in: ops want its shape.
        """
        remaining = list(parts)
        query = remaining.pop(0) if self.terms.query else None
        key = remaining.pop(0) if self.terms.key else query
        value = remaining.pop(0) if self.terms.value_content else None
        query = key if query is None else query
        assert query is not None
        return query, query if key is None else key, value

    @property
    def needs_moments(self) -> bool:
        """Whether the logits are normalised by the moments of the batch at hand."""
        return uses_batch_statistics(self.logit_norm)

    def logit_scale(self, moments: LogitMoments | None) -> Tensor:
        """Factors of q·k, q·r and k·r, [3, N], 1 for a term that does not exist."""
        present = list(self.terms.logits)
        if all(present):
            return logit_norm_scale(self.logit_norm, moments).view(3, -1)
        if moments is not None:
            moments = LogitMoments(moments.mean[present], moments.variance[present], moments.count)
        scale = logit_norm_scale(self.logit_norm, moments).view(-1, self.num_heads)
        every = scale.new_ones(3, self.num_heads)
        every[present] = scale
        return every

    def combine(
        self,
        content: Tensor | None,
        position: Tensor | None,
        to_image: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The norms of both retrieved terms and their sum, [B, N·V, H, W].

        Args:
            content, position: [B, N, …, V] as the op returns them; None for an absent one.
            to_image: from such a tensor to [B, N·V, H, W].
        """
        images = [None if part is None else to_image(part) for part in (content, position)]
        if self.folds:
            return self._folded_sum(*images)
        present = [image for image in images if image is not None]
        if len(present) == 1:
            return normalise(self.retrieved_norm, present[0])
        normalised = self.retrieved_norm(torch.cat(present, dim=1))
        content_image, position_image = normalised.chunk(2, dim=1)
        return content_image + position_image

    def _folded_content(self) -> tuple[Tensor | None, Tensor | None]:
        """What the retrieved norms do to the projection: gain and offset, [C] each, of the value.

        Attention weights sum to 1, so what those norms add can be added to the value.
        """
        if not self.terms.value_content:
            return None, None
        scale, shift = self._retrieved_affine()
        others = sum(self.projected_channels[:2])
        return F.pad(scale[0], (others, 0), value=1.0), F.pad(shift.sum(0), (others, 0))

    def _folded_sum(self, content: Tensor | None, position: Tensor | None) -> Tensor:
        """Content, whose norm the projection has, and position times its norm's scale.

        Args:
            content, position: [B, N·V, H, W].
        """
        if position is None:
            assert content is not None
            return content
        scale, shift = self._retrieved_affine()
        factor = scale[-1].to(position.dtype)[:, None, None]
        base = shift[-1].to(position.dtype)[:, None, None] if content is None else content
        return torch.addcmul(base, position, factor)

    def _retrieved_affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of the retrieved terms that exist, [terms, N·V] each."""
        scale, shift = running_affine(self.retrieved_norm)
        return scale.view(-1, self.value_channels), shift.view(-1, self.value_channels)

    def extra_repr(self) -> str:
        return (
            f"num_heads={self.num_heads}, key_channels={self.key_channels}, "
            f"value_channels={self.value_channels}"
        )


def check_heads(num_heads: int, key_channels: int, value_channels: int) -> None:
    """Raises ValueError unless the heads divide both channel counts."""
    if num_heads < 1 or key_channels % num_heads or value_channels % num_heads:
        raise ValueError(
            f"num_heads {num_heads} does not divide key_channels {key_channels} and "
            f"value_channels {value_channels}; choose a number of heads that divides both, or "
            "another width."
        )
