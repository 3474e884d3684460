"""One attention layer or op, beside its own reference, eager and compiled."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from axial_d2.layers import AxialAttention
from axial_d2.ops import cpp_library, local_attention
from torch import Tensor, nn

from benchmarks.models import relative_error, with_random_norms
from benchmarks.registry import Contest, Goal, Run, Setting, Side, Unavailable, case

# Of the first stage of Axial-ResNet-S.
CHANNELS, KEY_CHANNELS, NUM_HEADS = 64, 32, 8


def axial_layer(device: str, implementation: str) -> AxialAttention:
    torch.manual_seed(0)
    layer = AxialAttention(
        CHANNELS, KEY_CHANNELS, CHANNELS, "height", implementation=implementation
    )
    with_random_norms(layer)
    return layer.to(device)


class ForwardBackward:
    """A module in training mode on one input, with gradients of everything."""

    def __init__(self, module: nn.Module | Callable[[Tensor], Tensor], inputs: Tensor):
        self.module = module
        self.inputs = inputs.requires_grad_()
        generator = torch.Generator().manual_seed(1)
        self.weights = torch.randn(inputs.shape, generator=generator).to(inputs.device)

    def __call__(self) -> Tensor:
        self.inputs.grad = None
        if isinstance(self.module, nn.Module):
            self.module.zero_grad()
        output = self.module(self.inputs)
        output.backward(self.weights)
        return output.detach()

    def gradient(self) -> Tensor:
        """Of the input, in the last call."""
        assert self.inputs.grad is not None
        return self.inputs.grad


def layer_inputs(setting: Setting, length: int) -> Tensor:
    """[1, C, length, …]: a quarter of the columns of a square map, as the reference needs 2 GB."""
    columns = setting.size(length // 4, 3)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, CHANNELS, length, columns, generator=generator)
    return inputs.to(setting.device)


def layer_run(setting: Setting, implementation: str, length: int, compiled: bool = False) -> Run:
    layer = axial_layer(setting.device, implementation).train()
    module = torch.compile(layer) if compiled else layer
    return ForwardBackward(module, layer_inputs(setting, length))


def check_layer(setting: Setting, length: int) -> Callable[[Run, Sequence[Run]], float]:
    """Output and gradient of the input, against the eager reference."""

    def check(ours: Run, peers: Sequence[Run]) -> float:
        return forward_backward_error(ours, layer_run(setting, "reference", length))

    return check


def forward_backward_error(ours: Run, reference: Run) -> float:
    assert isinstance(ours, ForwardBackward)
    assert isinstance(reference, ForwardBackward)
    output = relative_error(ours(), reference())
    return max(output, relative_error(ours.gradient(), reference.gradient()))


def compile_obstacle(device: str) -> str | None:
    """Why ``torch.compile`` cannot make code for the device here, or None."""
    if device == "cpu":
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else f"no C++ compiler ({compiler})"
    return None if importlib.util.find_spec("triton") else "no Triton"


def layer_contest(setting: Setting, peer: Side, length: int, note: str) -> Contest:
    return Contest(
        Side("axial_d2", lambda: layer_run(setting, "auto", length)),
        [peer],
        check_layer(setting, length),
        tolerance=1e-3,
        checked_against="output and gradients of the reference attention",
        shapes=f"images {list(layer_inputs(setting, length).shape)}, {NUM_HEADS} heads, float32",
        notes=[note],
        rounds=3,
    )


@case(
    "axial_layer_training",
    "One axial layer, L = 257, forward and backward, over the eager reference",
    {
        "cpu": [Goal("memory", 1 / 6, 1 / 10, "training memory of one axial layer at L = 257")],
        "cuda": [Goal("time", 1 / 4, 1 / 10, "fused layer, forward + backward, over eager")],
    },
)
def axial_layer_training(setting: Setting) -> Contest:
    length = setting.size(257, 17)
    eager = Side("eager reference", lambda: layer_run(setting, "reference", length))
    return layer_contest(setting, eager, length, "Batch norm in training mode.")


@case(
    "axial_layer_compiled",
    "One axial layer, forward and backward, over torch.compile of the reference",
    {
        "cpu": [],
        "cuda": [Goal("time", 2 / 3, 1 / 3, "the same over torch.compile of the reference")],
    },
)
def axial_layer_compiled(setting: Setting) -> Contest:
    obstacle = compile_obstacle(setting.device)
    if obstacle is not None:
        raise Unavailable(f"torch.compile makes no code for {setting.device}: {obstacle}.")
    length = setting.size({"cpu": 129, "cuda": 257}[setting.device], 17)
    compiled = Side(
        "torch.compile of the reference",
        lambda: layer_run(setting, "reference", length, compiled=True),
    )
    contest = layer_contest(setting, compiled, length, "Compiled before it is timed.")
    return replace(contest, calls_for_peak=0)  # which would compile it anew


class LocalOp(nn.Module):
    """The op on queries, keys and values side by side, with one table for all three."""

    def __init__(self, span: int, implementation: str):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(span, span, 8, generator=generator))
        self.implementation = implementation

    def forward(self, qkv: Tensor) -> Tensor:
        query, key, value = qkv.chunk(3, dim=-1)
        tables = (self.table, self.table, self.table)
        content, position = local_attention(
            query, key, value, *tables, span=len(self.table), implementation=self.implementation
        )
        assert content is not None
        assert position is not None
        return torch.cat([content, position, content], dim=-1)


def local_sizes(setting: Setting) -> tuple[int, int, int]:
    """Images, side, span: a GPU that is not filled measures its launches."""
    return setting.size(({"cpu": 1, "cuda": 8}[setting.device], 56, 7), (1, 9, 3))


def local_run(setting: Setting, implementation: str) -> Run:
    images, side, span = local_sizes(setting)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(images, NUM_HEADS, side, side, 3 * 8, generator=generator)
    operator = LocalOp(span, implementation).to(setting.device)
    return ForwardBackward(operator, inputs.to(setting.device))


@case(
    "local_attention",
    "2-D local attention, forward and backward, over the eager reference",
    {"cpu": [], "cuda": []},
)
def local_attention_op(setting: Setting) -> Contest:
    def check(ours: Run, peers: Sequence[Run]) -> float:
        return forward_backward_error(ours, local_run(setting, "reference"))

    images, side, span = local_sizes(setting)
    on_cpu = "blocked" if cpp_library.obstacle() else "cpp"
    chosen = {"cpu": on_cpu, "cuda": "triton"}[setting.device]
    return Contest(
        Side("axial_d2", lambda: local_run(setting, chosen)),
        [Side("eager reference", lambda: local_run(setting, "reference"))],
        check,
        tolerance=1e-4,
        checked_against="output and gradients of the reference",
        shapes=(f"{images} × {NUM_HEADS} heads of 8 channels, {side}×{side}, span {span}, float32"),
        notes=[f"Ours is {chosen!r}, which auto takes."],
        rounds=7,
    )
