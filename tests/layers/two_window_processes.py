"""What each of two gloo processes runs; started once by ``test_window_distributed.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from attention_layers import randomise_norms
from axial_d2.layers import AttentionTerms, PositionSensitiveLocalAttention
from torch import Tensor

TERMS = {"all terms": AttentionTerms(), "without q·k": AttentionTerms(query_key=False)}
# Images of either process.
SHARES = (2, 2)


def full_batch() -> tuple[Tensor, Tensor]:
    """Images, and what their outputs are compared with."""
    generator = torch.Generator().manual_seed(3)
    return tuple(
        torch.randn(sum(SHARES), channels, 3, 5, dtype=torch.float64, generator=generator)
        for channels in (5, 8)
    )


def train_layer(terms: AttentionTerms, x: Tensor, target: Tensor) -> dict[str, Any]:
    """One step's outputs, gradients of the mean squared error, and statistics."""
    torch.manual_seed(11)
    layer = PositionSensitiveLocalAttention(
        5, 4, 8, num_heads=2, span=3, norm="naiveSyncBN", terms=terms
    )
    randomise_norms(layer)
    layer.double()
    x = x.clone().requires_grad_()
    output = layer(x)
    (output - target).square().mean().backward()
    return {
        "output": output.detach(),
        "input gradient": x.grad,
        "gradients": {name: p.grad for name, p in layer.named_parameters()},
        "statistics": dict(layer.named_buffers()),
    }


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    try:
        x, target = (tensor.split(SHARES)[rank] for tensor in full_batch())
        results = {name: train_layer(terms, x, target) for name, terms in TERMS.items()}
        torch.save(results, Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()
