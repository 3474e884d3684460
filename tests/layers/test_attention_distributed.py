"""Two gloo processes with half of a batch each equal one process with all of it.

Batch norm that synchronises must do so for the logits too. As under DistributedDataParallel,
parameter gradients are averaged over the processes; input gradients are those of the sum of
both losses, twice those of the whole batch's mean.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
import two_processes
from two_processes import SPANS, UNEQUAL

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11)
# Values a channel of each norm sees in the whole batch: 4 images of 3x9, global or span 3.
VALUES = {
    "qkv.norm": {0: 4 * 27, 3: 4 * 27},
    "retrieved_norm": {0: 4 * 27, 3: 4 * 27},
    "logit_norm": {0: 4 * 3 * 81, 3: 4 * 3 * (9 + 2 * 8)},
}
MOMENTUM = 0.1


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("two_processes")
    mp.spawn(two_processes.run, args=(str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module", params=SPANS, ids=["global", "span3"])
def step(request: pytest.FixtureRequest, ranks: list) -> tuple[int, list[dict], dict]:
    span = request.param
    alone = two_processes.train_layer("naiveSyncBN", span, *two_processes.full_batch())
    return span, [rank["layer", span] for rank in ranks], alone


def test_outputs(step: tuple[int, list[dict], dict]) -> None:
    _, halves, alone = step
    close(torch.cat([half["output"] for half in halves]), alone["output"])


def test_averaged_parameter_gradients(step: tuple[int, list[dict], dict]) -> None:
    _, halves, alone = step
    for name, want in alone["gradients"].items():
        average = sum(half["gradients"][name] for half in halves) / 2
        close(average, want, msg=lambda text, name=name: f"{name}: {text}")


def test_input_gradients(step: tuple[int, list[dict], dict]) -> None:
    _, halves, alone = step
    close(torch.cat([half["input_gradient"] for half in halves]), 2 * alone["input_gradient"])


@pytest.mark.parametrize("norm", VALUES)
def test_running_statistics(step: tuple[int, list[dict], dict], norm: str) -> None:
    """NaiveSyncBatchNorm records the biased variance when it synchronises, else the unbiased."""
    span, halves, alone = step
    count = VALUES[norm][span]
    start = two_processes.train_layer("FrozenBN", span, *two_processes.full_batch())["statistics"]
    mean, variance = f"{norm}.running_mean", f"{norm}.running_var"
    kept = (1 - MOMENTUM) * start[variance]
    biased = kept + (alone["statistics"][variance] - kept) * (count - 1) / count
    for half in halves:
        close(half["statistics"][mean], alone["statistics"][mean])
        close(half["statistics"][variance], biased)


@pytest.mark.parametrize("norm", ["SyncBN", "naiveSyncBN"])
def test_logit_norm_with_unequal_batches(ranks: list, norm: str) -> None:
    alone = two_processes.scale_logits("BN", slice(None))
    halves = [rank["scale", norm] for rank in ranks]
    for name in ("query_gradient", "key_gradient"):
        close(torch.cat([half[name] for half in halves]), 2 * alone[name])
    for name in ("weight_gradient", "bias_gradient"):
        close(sum(half[name] for half in halves) / 2, alone[name])
    count = sum(UNEQUAL) * 36
    kept = 1 - MOMENTUM
    for half in halves:
        close(half["scale"], alone["scale"])
        close(half["statistics"]["running_mean"], alone["statistics"]["running_mean"])
        want = alone["statistics"]["running_var"]
        if norm == "naiveSyncBN":
            want = kept + (want - kept) * (count - 1) / count
        close(half["statistics"]["running_var"], want)


def test_plain_batch_norm_does_not_synchronise(ranks: list) -> None:
    for rank, rows in zip(ranks, (slice(0, 2), slice(2, None)), strict=True):
        close(rank["scale", "BN"], two_processes.scale_logits("BN", rows))
