"""DANet's head: position attention and channel attention side by side (arXiv 1809.02983)."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from axial_d2.heads.semantic import Losses, SemanticHead
from axial_d2.layers.dual_attention import ChannelAttention, PositionAttention
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

BRANCH_CHOICES = ("attention", "convolutions", "none")


@SEM_SEG_HEADS_REGISTRY.register()
class DualAttentionHead(SemanticHead):
    """Dual attention over one feature of any backbone.

    Each of two branches is a 3×3 convolution, an attention layer and another 3×3 convolution.
    The sum of the branches is classified, and in training each branch as well: three equally
    weighted losses, "loss_sem_seg" of the fused scores, "loss_position" and "loss_channel". A
    single branch is classified once. Both attention layers start as the identity, so the head
    starts as the one whose branches are "convolutions".

    ``forward`` and ``layers`` as in :class:`.SemanticHead`; the fused scores count at test.

    Args:
        input_shape: of one feature, by name.
        channels: of both branches; default 512, the paper's for 2048 input channels.
        key_channels: of the position attention's queries and keys; default an eighth of them.
        position_branch, channel_branch: "attention" (default), "convolutions" (the branch without
            its attention layer) or "none" (left out), for the paper's ablations.
        channel_softmax: "energy" (default; the paper's) or "reversed_energy" (the released
            code's), see :class:`.ChannelAttention`.
        dropout: of whole channels, in front of every classifier: 0 to below 1, default 0.1.
        norm: of the 3×3 convolutions; default "SyncBN".
        others: of :class:`.SemanticHead`.

    Raises:
        ValueError: an unknown choice, a dropout out of range, or no branch.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        channels: int = 512,
        key_channels: int | None = None,
        position_branch: str = "attention",
        channel_branch: str = "attention",
        channel_softmax: str = "energy",
        dropout: float = 0.1,
        norm: str = "SyncBN",
        **others: Any,
    ):
        super().__init__(input_shape, **others)
        _check_branches(position_branch, channel_branch)
        if not 0 <= dropout < 1:
            raise ValueError(
                f"MODEL.DUAL_ATTENTION.DROPOUT is {dropout}; it must be from 0 to below 1."
            )
        attention: dict[str, tuple[str, Callable[[], nn.Module]]] = {
            "position": (position_branch, lambda: PositionAttention(channels, key_channels)),
            "channel": (channel_branch, lambda: ChannelAttention(channel_softmax)),
        }
        self.branches = nn.ModuleDict(
            {
                name: _branch(self.in_channels, channels, norm, kind, build)
                for name, (kind, build) in attention.items()
                if kind != "none"
            }
        )
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = _classifier(channels, self.num_classes)
        self.branch_predictors = nn.ModuleDict(
            {name: _classifier(channels, self.num_classes) for name in self.branches}
            if len(self.branches) > 1
            else {}
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.DUAL_ATTENTION
        return {
            **super().from_config(cfg, input_shape),
            "channels": cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM,
            "key_channels": node.KEY_CHANNELS or None,
            "position_branch": node.POSITION_BRANCH,
            "channel_branch": node.CHANNEL_BRANCH,
            "channel_softmax": node.CHANNEL_SOFTMAX,
            "dropout": node.DROPOUT,
            "norm": cfg.MODEL.SEM_SEG_HEAD.NORM,
        }

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, Losses]:
        if not self.training:
            return super().forward(features, targets)
        assert targets is not None, "training needs targets"
        losses: Losses = {}
        for name, scores in self.outputs(features).items():
            (loss,) = self.losses(scores, targets).values()
            losses[f"loss_{name}"] = loss
        return None, losses

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        return self._classified(self.predictor, _sum(self.branch_features(features)))

    def outputs(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scores [B, num_classes, h, w]: "sem_seg", fused, and of two branches, either's."""
        branches = self.branch_features(features)
        scores = {"sem_seg": self._classified(self.predictor, _sum(branches))}
        for name, predictor in self.branch_predictors.items():
            scores[name] = self._classified(predictor, branches[name])
        return scores

    def branch_features(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of each branch, [B, channels, h, w]."""
        x = features[self.in_feature]
        return {name: branch(x) for name, branch in self.branches.items()}

    def attention_input(self, name: str, features: dict[str, Tensor]) -> Tensor:
        """What a branch's attention layer sees, [B, channels, h, w], for pictures.

        Args:
            name: "position" or "channel".

        Raises:
            ValueError: the head has no such attention layer.
        """
        self.attention_layer(name)  # for its error
        branch: Any = self.branches[name]
        return branch.reduce(features[self.in_feature])

    def attention_layer(self, name: str) -> Any:
        """A branch's :class:`.PositionAttention` or :class:`.ChannelAttention`.

        Raises:
            ValueError: the head has no such attention layer.
        """
        layer = self.branches[name].attention if name in self.branches else None
        if not isinstance(layer, (PositionAttention, ChannelAttention)):
            raise ValueError(
                f"this head has no {name} attention; set MODEL.DUAL_ATTENTION.{name.upper()}_BRANCH"
                " to 'attention'."
            )
        return layer

    def _classified(self, predictor: nn.Module, x: Tensor) -> Tensor:
        return predictor(self.dropout(x))


def _check_branches(position: str, channel: str) -> None:
    for key, given in (("POSITION_BRANCH", position), ("CHANNEL_BRANCH", channel)):
        if given not in BRANCH_CHOICES:
            raise ValueError(
                f"MODEL.DUAL_ATTENTION.{key} is {given!r}; it must be one of {BRANCH_CHOICES}."
            )
    if position == channel == "none":
        raise ValueError(
            "MODEL.DUAL_ATTENTION.POSITION_BRANCH and CHANNEL_BRANCH are both 'none', which leaves "
            "nothing to classify; set one of them to 'attention' or 'convolutions'."
        )


def _sum(branches: dict[str, Tensor]) -> Tensor:
    return reduce(torch.add, branches.values())


def _branch(
    in_channels: int, channels: int, norm: str, kind: str, build: Callable[[], nn.Module]
) -> nn.Module:
    branch = nn.Sequential()
    branch.add_module("reduce", _convolution(in_channels, channels, norm))
    branch.add_module("attention", build() if kind == "attention" else nn.Identity())
    branch.add_module("refine", _convolution(channels, channels, norm))
    return branch


def _convolution(in_channels: int, out_channels: int, norm: str) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv


def _classifier(channels: int, num_classes: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
