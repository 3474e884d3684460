"""Which implementation "auto" means, what "triton" refuses, and that choosing imports nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from axial_d2.layers import AxialAttention, LocalAttention, PositionSensitiveLocalAttention
from axial_d2.ops import (
    axial_attention,
    local_attention,
    local_logit_moments,
    logit_moments,
    triton_support,
)
from axial_d2.ops.axial_attention import IMPLEMENTATION_CHOICES
from axial_d2.ops.axial_attention import _chosen as chosen_for_an_axis
from axial_d2.ops.local_attention import IMPLEMENTATION_CHOICES as LOCAL_CHOICES
from axial_d2.ops.local_attention import _chosen as chosen_for_windows
from naive_attention import random_inputs
from naive_local_attention import random_inputs as random_images
from torch import nn

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if PyTorch for CUDA ran on a GPU of compute capability 9.0, without interpretation."""
    monkeypatch.setattr(triton_support, "FOUND", True)
    monkeypatch.setattr(triton_support, "INTERPRETED", False)
    monkeypatch.setattr(triton_support, "_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)


@pytest.fixture(params=[chosen_for_an_axis, chosen_for_windows])
def chosen(request: pytest.FixtureRequest) -> Callable[[str, Sequence[Any]], str]:
    return request.param


def tensor(
    channels: int, device: torch.device = CUDA, dtype: torch.dtype = torch.float32
) -> SimpleNamespace:
    """What the choice looks at."""
    return SimpleNamespace(
        device=device, is_cuda=device.type == "cuda", dtype=dtype, shape=(2, 8, 65, channels)
    )


def arguments(channels: tuple[int, int] = (8, 16), **options: Any) -> list[Any]:
    key, value = channels
    features = [tensor(channel, **options) for channel in (key, key, value)]
    return [*features, *(tensor(channel, options.get("device", CUDA)) for channel in (key, value))]


@pytest.mark.parametrize("channels", [(4, 8), (8, 16), (128, 128), (5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_is_the_kernel_on_a_gpu(
    chosen: Callable, channels: tuple[int, int], dtype: torch.dtype
) -> None:
    assert chosen("auto", arguments(channels, dtype=dtype)) == "triton"


CPU = torch.device("cpu")
REFUSED = {
    "another device": (arguments(device=CPU), "needs a CUDA device, and the tensors are on cpu"),
    "no device": (arguments(device=torch.device("meta")), "the tensors are on meta"),
    "float64": (arguments(dtype=torch.float64), "not torch.float64"),
    "key channels": (arguments((129, 16)), "at most 128 channels, not 129"),
    "value channels": (arguments((8, 256)), "at most 128 channels, not 256"),
    "two devices": ([*arguments()[:4], tensor(16, CPU)], "its tensors are on cuda:0 and on cpu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_auto_is_something_else_elsewhere(chosen: Callable, case: str) -> None:
    given, reason = REFUSED[case]
    assert chosen("auto", given) != "triton"
    assert reason in triton_support.obstacle(*given)


@pytest.mark.parametrize(
    ("where", "name", "value", "reason"),
    [
        (triton_support, "FOUND", False, "the package triton is not installed"),
        (triton_support, "_capability", lambda _: (7, 5), "compute capability 8.0"),
        (torch.version, "hip", "6.2", "built for ROCm"),
    ],
)
def test_auto_is_something_else_without_what_the_kernels_need(
    chosen: Callable,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    value: Any,
    reason: str,
) -> None:
    monkeypatch.setattr(where, name, value)
    assert chosen("auto", arguments()) != "triton"
    assert reason in triton_support.obstacle(*arguments())


def test_values_may_be_missing(chosen: Callable) -> None:
    given = arguments()
    given[2] = None
    assert chosen("auto", given) == "triton"


def test_interpretation_takes_the_cpu_but_auto_does_not(
    chosen: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_support, "INTERPRETED", True)
    assert triton_support.obstacle(*arguments(device=CPU)) is None
    assert chosen("auto", arguments(device=CPU)) != "triton"


def test_both_ops_have_the_same_choices() -> None:
    assert IMPLEMENTATION_CHOICES == LOCAL_CHOICES


@pytest.mark.parametrize("name", [name for name in LOCAL_CHOICES if name != "auto"])
def test_a_named_implementation_is_taken_as_it_is(chosen: Callable, name: str) -> None:
    assert chosen(name, arguments(device=CPU)) == name


@pytest.mark.parametrize(
    ("attention", "inputs"),
    [
        (axial_attention, random_inputs(5, dtype=torch.float32)),
        (local_attention, random_images(3, 4).to(torch.float32)),
    ],
)
def test_triton_on_a_cpu_says_what_is_missing(attention: Callable, inputs: Sequence[Any]) -> None:
    message = r'"triton" cannot be used: it needs a CUDA device.*on cpu.*"auto".*"blocked"'
    with pytest.raises(ValueError, match=message):
        attention(*inputs, implementation="triton")


@pytest.mark.parametrize(
    "layer",
    [
        AxialAttention(8, 8, 16, "width", num_heads=2, implementation="triton"),
        LocalAttention(8, 8, num_heads=2, implementation="triton"),
        PositionSensitiveLocalAttention(8, 8, 16, num_heads=2, implementation="triton"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layer_with_triton_is_built_anywhere_and_refuses_a_cpu(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="cannot be used"):
        layer.eval()(torch.zeros(1, 8, 3, 3))


@pytest.mark.parametrize(
    ("moments", "inputs"),
    [(logit_moments, random_inputs(9)), (local_logit_moments, random_images(3, 4))],
)
def test_moments_are_those_of_blocked(moments: Callable, inputs: Sequence[Any]) -> None:
    query, key, _, query_table, key_table, _ = inputs
    found, want = (
        moments(query, key, query_table, key_table, implementation=name)
        for name in ("triton", "blocked")
    )
    assert torch.equal(found.variance, want.variance)
    assert torch.equal(found.mean, want.mean)


def test_importing_the_op_imports_no_triton() -> None:
    program = """
import sys, torch
before = "triton" in sys.modules
import axial_d2.ops
from axial_d2.ops.axial_attention import IMPLEMENTATIONS
assert "triton" in IMPLEMENTATIONS
assert ("triton" in sys.modules) == before, "triton was imported"
assert not before
"""
    # The package itself imports Detectron2, which may import what it likes.
    stub = """
import sys, types
package = types.ModuleType("axial_d2")
package.__path__ = [sys.argv[1]]
sys.modules["axial_d2"] = package
"""
    root = str(Path(triton_support.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", stub + program, root], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
