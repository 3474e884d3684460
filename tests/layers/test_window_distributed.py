"""Two gloo processes with half of a batch each equal one with all of it, on windows too.

As under DistributedDataParallel, parameter gradients are averaged over the processes; input
gradients are those of the sum of both losses, twice those of the whole batch's mean.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
import two_window_processes
from two_window_processes import TERMS

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two_window_processes")
    mp.spawn(two_window_processes.run, args=(str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", TERMS)
def test_halves_equal_the_whole(ranks: list[dict[str, Any]], name: str) -> None:
    alone = two_window_processes.train_layer(TERMS[name], *two_window_processes.full_batch())
    halves = [rank[name] for rank in ranks]
    close(torch.cat([half["output"] for half in halves]), alone["output"])
    close(torch.cat([half["input gradient"] for half in halves]), 2 * alone["input gradient"])
    for parameter, want in alone["gradients"].items():
        close(sum(half["gradients"][parameter] for half in halves) / 2, want)
    for norm in ("qkv.norm", "logit_norm", "retrieved_norm"):
        for half in halves:
            statistic = f"{norm}.running_mean"
            close(half["statistics"][statistic], alone["statistics"][statistic])
