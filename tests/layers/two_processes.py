"""What each of two gloo processes runs; started once by ``test_attention_distributed.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from attention_layers import make_layer
from axial_d2.layers import build_norm
from axial_d2.layers.norm import logit_norm_scale
from axial_d2.ops import logit_moments
from torch import Tensor, nn

SPANS = (0, 3)
# Rows of the logits of either process, for norms that allow unequal batches.
UNEQUAL = (2, 5)


def full_batch() -> tuple[Tensor, Tensor]:
    """Images, and what their outputs are compared with."""
    generator = torch.Generator().manual_seed(3)
    return tuple(
        torch.randn(4, channels, 3, 9, dtype=torch.float64, generator=generator)
        for channels in (5, 6)
    )


def train_layer(norm: str, span: int, x: Tensor, target: Tensor) -> dict[str, Any]:
    """One step's outputs, gradients of the mean squared error, and statistics."""
    torch.manual_seed(11)
    layer = make_layer(norm=norm, span=span)
    x = x.clone().requires_grad_()
    output = layer(x)
    (output - target).square().mean().backward()
    return {
        "output": output.detach(),
        "input_gradient": x.grad,
        "gradients": {name: p.grad for name, p in layer.named_parameters()},
        "statistics": dict(layer.named_buffers()),
    }


def moments_input() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    shapes = [(sum(UNEQUAL), 2, 6, 3)] * 2 + [(11, 3)] * 2
    return tuple(torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes)


def scale_logits(norm_name: str, rows: slice) -> dict[str, Any]:
    """A logit norm alone, on some of the rows."""
    query, key, *tables = (tensor.clone() for tensor in moments_input())
    torch.manual_seed(12)
    norm = build_norm(norm_name, 6).double()
    nn.init.normal_(norm.weight)
    query, key = query[rows].requires_grad_(), key[rows].requires_grad_()
    scale = logit_norm_scale(norm, logit_moments(query, key, *tables))
    (scale * torch.arange(6, dtype=torch.float64)).sum().backward()
    return {
        "scale": scale.detach(),
        "query_gradient": query.grad,
        "key_gradient": key.grad,
        "weight_gradient": norm.weight.grad,
        "bias_gradient": norm.bias.grad,
        "statistics": dict(norm.named_buffers()),
    }


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    try:
        x, target = (tensor.chunk(2)[rank] for tensor in full_batch())
        results: dict[Any, Any] = {
            ("layer", span): train_layer("naiveSyncBN", span, x, target) for span in SPANS
        }
        rows = slice(0, UNEQUAL[0]) if rank == 0 else slice(UNEQUAL[0], None)
        for norm in ("SyncBN", "naiveSyncBN", "BN"):
            results["scale", norm] = scale_logits(norm, rows)
        torch.save(results, Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()
