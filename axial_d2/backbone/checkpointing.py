"""Stages that keep little for the backward and compute the rest again."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import torch
from axial_d2.layers.norm import uses_batch_statistics
from axial_d2.layers.recompute import keeping
from detectron2.modeling.backbone.resnet import ResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class CheckpointedStage(nn.Sequential):
    """Blocks of which training keeps the input alone; the backward computes the rest anew.

    Results, gradients, running statistics and what drop path drops are those of the plain stage,
    for about one more forward of it. In ``eval()`` and without gradients it is that plain stage.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        for block in self:
            x = _checkpointed(block, x)
        return x


def checkpoint_stages(backbone: ResNet, names: Collection[str]) -> None:
    """Makes stages of a backbone a :class:`CheckpointedStage`, in place; keys stay as they are.

    Args:
        backbone: its stages may be in use already.
        names: some of "res2" … "res5"; those that the backbone did not build are passed over.
    """
    for index, name in enumerate(backbone.stage_names):
        if name in names:
            stage = CheckpointedStage(*backbone.stages[index])
            stage.training = backbone.stages[index].training
            setattr(backbone, name, stage)
            backbone.stages[index] = stage


@contextlib.contextmanager
def untouched_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, batch norms update copies of their statistics, which are then forgotten.

    Copies rather than ``track_running_stats``: the recomputation has to keep as many tensors for
    the backward as the computation did, and plain batch norm keeps its buffers among them.
    """
    norms = [
        part
        for part in module.modules()
        if isinstance(part, _BatchNorm) and uses_batch_statistics(part)
    ]
    buffers = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, originals in zip(norms, buffers, strict=True):
        for name, buffer in originals.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, originals in zip(norms, buffers, strict=True):
            for name, buffer in originals.items():
                setattr(norm, name, buffer)


@contextlib.contextmanager
def _recomputing(block: nn.Module) -> Iterator[None]:
    with keeping(), untouched_statistics(block):
        yield


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # whose backward repeats no change of a buffer
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: (keeping(), _recomputing(block)),
    )
