"""What each of two gloo processes runs; started once by ``test_checkpointing.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_backbones import FEATURES, let_branches_speak, tiny_backbone
from torch import Tensor

STAGES = FEATURES[1:]


def train_synchronised(checkpoint_stages: tuple[str, ...], x: Tensor) -> dict[str, Any]:
    """Two steps' sum of outputs, gradients and statistics."""
    torch.manual_seed(0)
    model = tiny_backbone(norm="naiveSyncBN", checkpoint_stages=checkpoint_stages).double()
    let_branches_speak(model)
    for image in x.split(2):
        outputs = model(image)
        sum(feature.square().mean() for feature in outputs.values()).backward()
    return {
        "outputs": {name: feature.detach() for name, feature in outputs.items()},
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "statistics": dict(model.named_buffers()),
    }


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    try:
        generator = torch.Generator().manual_seed(rank)
        x = torch.randn(4, 3, 24, 24, dtype=torch.float64, generator=generator)
        results = {stages: train_synchronised(stages, x) for stages in ((), STAGES)}
        torch.save(results, Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()
