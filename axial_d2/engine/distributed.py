"""The same training script under ``torchrun``, on GPUs or on CPUs."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

TIMEOUT = timedelta(minutes=30)


def under_torchrun() -> bool:
    """Whether this process was started by torchrun (or sets its variables itself)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def run_under_torchrun(main_func: Callable[..., Any], args: tuple = ()) -> Any:
    """Runs ``main_func(*args)`` in the process group that torchrun's variables describe.

    Uses nccl with one GPU a process where CUDA is available, else gloo.

    Raises:
        ValueError: more processes on this node than it has GPUs.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    use_gpu = torch.cuda.is_available()
    if use_gpu:
        if local_size > torch.cuda.device_count():
            raise ValueError(
                f"torchrun started {local_size} processes on a node with "
                f"{torch.cuda.device_count()} GPUs; give --nproc-per-node at most that many, or "
                "hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on CPUs."
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if use_gpu else "gloo", timeout=TIMEOUT)
    try:
        _create_local_group(local_size)
        comm.synchronize()
        return main_func(*args)
    finally:
        dist.destroy_process_group()


def _create_local_group(processes_a_node: int) -> None:
    """Tells Detectron2's ``comm`` which processes share this node."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(processes_a_node)
        return
    # Detectron2 0.6 does this inside its launcher only.
    for first in range(0, dist.get_world_size(), processes_a_node):
        ranks = range(first, first + processes_a_node)
        group = dist.new_group(list(ranks))
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group
