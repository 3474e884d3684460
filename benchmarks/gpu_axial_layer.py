#!/usr/bin/env python
"""The fused axial attention on a GPU in one call: checks, times beside its peers, and block shapes.

Needs PyTorch and Triton alone: of the package only ``axial_d2.ops`` is loaded, so that a machine
without Detectron2 will do. A result is checked against the reference in float64 first; a wrong one
is not timed. Contestants take turns in one process.

    python benchmarks/gpu_axial_layer.py                   # check and time; some minutes
    python benchmarks/gpu_axial_layer.py --only check
    python benchmarks/gpu_axial_layer.py --only profile    # where the time goes
    python benchmarks/gpu_axial_layer.py --only sweep --arithmetic bfloat16   # block shapes
    TRITON_INTERPRET=1 python benchmarks/gpu_axial_layer.py --device cpu   # tiny: does it run?

A compilation of all kernels takes seconds, and a sweep does 48: one arithmetic a call.
It is no part of ``make bench-gpu``, which times the whole layer with Detectron2's own.

Shape letters: B rows, N heads, L positions, K key and V value channels a head.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]


def make_ops_importable() -> None:
    """``axial_d2.ops`` without the package around it, which imports Detectron2."""
    if "axial_d2" not in sys.modules:
        package = types.ModuleType("axial_d2")
        package.__path__ = [str(ROOT / "axial_d2")]
        sys.modules["axial_d2"] = package


make_ops_importable()

from axial_d2.ops import axial_attention, logit_moments  # noqa: E402
from axial_d2.ops.axial_attention import reference  # noqa: E402

ARITHMETICS = ("float32", "tf32", "bfloat16", "float16")
# Largest error relative to the largest entry. Half precision rounds weights and logits' gradients.
TOLERANCES = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2, "float16": 1e-2}
PARTS = ("check", "op", "layer", "profile", "sweep")
ROUNDS = 7
TARGET_SECONDS = 0.02


class Shape(NamedTuple):
    """Of one call."""

    rows: int
    heads: int
    length: int
    key_channels: int
    value_channels: int
    span: int = 0

    @property
    def text(self) -> str:
        b, n, length, k, v, span = self
        return f"B {b}, N {n}, L {length}, K {k}, V {v}, {f'span {span}' if span else 'global'}"


# Stages of Axial-DeepLab at 1025×2049, one image, at width 0.5 (S) and 1.0 (L).
SHAPES = {
    "S res2 height": Shape(513, 8, 257, 4, 8),
    "L res2 height": Shape(513, 8, 257, 8, 16),
    "L res2 width": Shape(257, 8, 513, 8, 16),
    "L res2 height, span 65": Shape(513, 8, 257, 8, 16, 65),
    "L res3 height": Shape(257, 8, 129, 16, 32),
    "L res4 height": Shape(129, 8, 65, 32, 64),
    "L res5 height": Shape(129, 8, 65, 64, 128),
}
COMPILED = ("L res2 height",)
SWEPT = ("S res2 height", "L res2 height", "L res4 height")
CHECKED = [
    Shape(3, 3, length, key, value, span)
    for (length, span), (key, value) in itertools.product(
        [(1, 0), (17, 3), (65, 0), (257, 0), (257, 65), (1024, 0)],
        [(4, 8), (8, 16), (16, 32), (64, 128)],
    )
]
TINY = {"tiny": Shape(3, 2, 9, 4, 8), "tiny, span 3": Shape(3, 2, 9, 4, 8, 3)}

Attention = Callable[..., tuple[Tensor | None, Tensor | None]]


def inputs_of(shape: Shape, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Query, key, value, three tables and the scales, all wanting gradients."""
    rows, heads, length, key, value, _ = shape
    generator = torch.Generator().manual_seed(0)

    def random(*size: int, std: float = 1.0) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64) * std

    features = [random(rows, heads, length, channels) for channels in (key, key, value)]
    tables = [random(509, channels, std=channels**-0.5) for channels in (key, key, value)]
    scale = random(3, heads, std=0.1).abs() + key**-0.5 / 2
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    return [
        *(tensor.to(device, dtype).requires_grad_() for tensor in features),
        *(tensor.to(device, precise).requires_grad_() for tensor in (*tables, scale)),
    ]


class ForwardBackward:
    """Forward and backward of the op for one set of inputs; returns results and gradients."""

    def __init__(self, attention: Attention, shape: Shape, device: str, dtype: torch.dtype):
        self.attention, self.span = attention, shape.span
        self.inputs = inputs_of(shape, device, dtype)
        generator = torch.Generator().manual_seed(1)
        size = (*shape[:3], shape.value_channels)
        self.cotangents = [
            torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)
            for _ in range(2)
        ]

    def __call__(self) -> list[Tensor]:
        results = self.attention(*self.inputs, span=self.span)
        return [*results, *torch.autograd.grad(results, self.inputs, self.cotangents)]  # type: ignore[arg-type,list-item]


def implementation(name: str) -> Attention:
    def attention(*inputs: Tensor, span: int) -> tuple[Tensor | None, Tensor | None]:
        return axial_attention(*inputs, span=span, implementation=name)

    return attention


def compiled_reference() -> Attention:
    """The reference compiled for these very shapes; half precision computes in float32 there."""
    torch._dynamo.reset()
    compiled = torch.compile(reference.axial_attention, dynamic=False)

    def attention(*inputs: Tensor, span: int) -> tuple[Tensor | None, Tensor | None]:
        dtype = inputs[0].dtype
        content, position = compiled(*(tensor.float() for tensor in inputs), span=span)
        return content.to(dtype), position.to(dtype)

    return attention


def dtype_of(arithmetic: str) -> torch.dtype:
    return torch.float32 if arithmetic == "tf32" else getattr(torch, arithmetic)


@contextmanager
def matmuls_in(arithmetic: str) -> Iterator[None]:
    """TF32 for everybody or for nobody."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = arithmetic == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def largest_error(given: list[Tensor], expected: list[Tensor]) -> float:
    """Of all tensors, relative to the largest entry of each; infinite if anything is not finite."""
    errors = []
    for got, want in zip(given, expected, strict=True):
        if not got.isfinite().all():
            return float("inf")
        got, want = got.detach().double(), want.detach().double()
        scale = want.abs().max().clamp(min=1e-3)
        errors.append(float((got - want).abs().max() / scale))
    return max(errors)


def check_shape(shape: Shape, device: str, arithmetic: str) -> dict[str, Any]:
    """Error against float64, and whether two runs agree to the bit."""
    dtype = dtype_of(arithmetic)
    run = ForwardBackward(implementation("triton"), shape, device, dtype)
    exact = ForwardBackward(reference.axial_attention, shape, device, torch.float64)
    for tensor, rounded in zip(exact.inputs, run.inputs, strict=True):
        tensor.data.copy_(rounded.data)
    for tensor, rounded in zip(exact.cotangents, run.cotangents, strict=True):
        tensor.copy_(rounded)
    with matmuls_in(arithmetic):
        first, second = run(), run()
    error = largest_error(first, exact())
    return {
        "shape": shape.text,
        "arithmetic": arithmetic,
        "error": error,
        "same_bits": all(map(torch.equal, first, second)),
        "passed": error <= TOLERANCES[arithmetic] and all(map(torch.equal, first, second)),
    }


class AxialLayer(nn.Module):
    """The layer's arithmetic in training, in plain PyTorch: projection, batch norms, attention.

    [B, C, H, W] along W; the package's own needs Detectron2 for its norms.
    """

    def __init__(self, shape: Shape, name: str):
        super().__init__()
        self.heads, self.key, self.value = shape.heads, shape.key_channels, shape.value_channels
        self.span, self.name = shape.span, name
        channels = shape.heads * shape.value_channels
        self.projection = nn.Conv2d(
            channels, shape.heads * (2 * self.key + self.value), 1, bias=False
        )
        self.projected_norm = nn.BatchNorm2d(self.projection.out_channels)
        self.logit_weight = nn.Parameter(torch.full((3, shape.heads), 0.5))
        self.retrieved_norm = nn.BatchNorm1d(2 * channels)
        self.tables = nn.ParameterList(
            torch.randn(509, width) * width**-0.5 for width in (self.key, self.key, self.value)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        packed = self.projected_norm(self.projection(x)).permute(0, 2, 3, 1).flatten(0, 1)
        sizes = [self.heads * size for size in (self.key, self.key, self.value)]
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in packed.split(sizes, 2)
        )
        tables = list(self.tables)
        moments = logit_moments(query, key, *tables[:2], self.span, self.name)
        scale = self.logit_weight * (moments.variance + 1e-5).rsqrt()
        retrieved = axial_attention(query, key, value, *tables, scale, self.span, self.name)
        lines = [part.transpose(1, 2).flatten(2) for part in retrieved]  # type: ignore[union-attr]
        both = self.retrieved_norm(torch.cat(lines, 2).flatten(0, 1))
        content, position = both.view(batch, height, width, -1).chunk(2, 3)
        return (content + position).permute(0, 3, 1, 2)


class LayerStep:
    """Forward and backward of the layer in training; returns output and gradients."""

    def __init__(
        self, shape: Shape, device: str, dtype: torch.dtype, name: str, compiled: bool = False
    ):
        torch.manual_seed(0)
        self.layer = AxialLayer(shape, name).to(device).train()
        self.dtype, self.device = dtype, device
        self.call = torch.compile(self.layer, dynamic=False) if compiled else self.layer
        channels = shape.heads * shape.value_channels
        images = torch.randn(1, channels, shape.rows, shape.length).to(device)
        self.images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
        self.cotangent = torch.randn_like(images)

    def __call__(self) -> list[Tensor]:
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            output = self.call(self.images)
        leaves = [self.images, *self.layer.parameters()]
        return [output, *torch.autograd.grad(output, leaves, self.cotangent.to(output.dtype))]


class Contestant(NamedTuple):
    name: str
    run: Callable[[], Any]


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_a_call(run: Callable[[], Any], calls: int, device: str) -> float:
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait(device)
    return (time.perf_counter() - start) / calls


def peak_bytes(run: Callable[[], Any], device: str) -> int | None:
    """What a call adds to what is there before it."""
    if device != "cuda":
        return None
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    wait(device)
    return torch.cuda.max_memory_allocated() - before


def race(contestants: list[Contestant], device: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Median, range and peak memory of each; in each round every one has a turn of some calls."""
    calls = {}
    for name, run in contestants:
        run()  # compiles
        once = seconds_a_call(run, 1, device)
        calls[name] = max(1, min(50, int(TARGET_SECONDS / once)))
    peaks = {name: peak_bytes(run, device) for name, run in contestants}
    times: dict[str, list[float]] = {name: [] for name, _ in contestants}
    for _ in range(rounds):
        for name, run in contestants:
            times[name].append(seconds_a_call(run, calls[name], device))
    return {
        name: {
            "median_s": statistics.median(each),
            "spread": (max(each) - min(each)) / statistics.median(each),
            "seconds": each,
            "peak_bytes": peaks[name],
        }
        for name, each in times.items()
    }


def report_race(title: str, arithmetic: str, figures: Mapping[str, Mapping[str, Any]]) -> None:
    ours = figures["triton"]
    print(f"{title}, {arithmetic}")
    for name, each in figures.items():
        peak = "" if each["peak_bytes"] is None else f"peak {each['peak_bytes'] / 2**20:8.0f} MiB"
        ratio = each["median_s"] / ours["median_s"]
        print(
            f"  {name:20} {each['median_s'] * 1e3:9.3f} ms  ± {each['spread'] * 50:3.0f} %  "
            f"{peak}  {ratio:6.2f} × ours",
            flush=True,
        )


def op_contestants(
    shape: Shape, device: str, arithmetic: str, compiled: bool
) -> Iterator[Contestant]:
    dtype = dtype_of(arithmetic)
    for name in ("triton", "blocked", "reference"):
        yield Contestant(name, ForwardBackward(implementation(name), shape, device, dtype))
    if compiled:
        run = ForwardBackward(compiled_reference(), shape, device, dtype)
        yield Contestant("reference, compiled", run)


def layer_contestants(
    shape: Shape, device: str, arithmetic: str, compiled: bool
) -> Iterator[Contestant]:
    dtype = dtype_of(arithmetic)
    for name in ("triton", "blocked", "reference"):
        yield Contestant(name, LayerStep(shape, device, dtype, name))
    if compiled:
        torch._dynamo.reset()
        for name in ("triton", "reference"):
            run = LayerStep(shape, device, dtype, name, compiled=True)
            yield Contestant(f"{name}, compiled", run)


def time_shapes(args: argparse.Namespace, part: str) -> list[dict[str, Any]]:
    """Races of the op or the layer; one whose result is wrong is reported and not run."""
    build = op_contestants if part == "op" else layer_contestants
    found = []
    for (name, shape), arithmetic in itertools.product(args.shapes.items(), args.arithmetics):
        with matmuls_in(arithmetic):
            contestants = list(build(shape, args.device, arithmetic, name in COMPILED))
            runs = dict(contestants)
            # Both at the arithmetic's own precision, so twice its tolerance.
            error = largest_error(runs["triton"](), runs["reference"]())
            wrong = part == "op" and error > 2 * TOLERANCES[arithmetic]
            title = f"{part}: {name} ({shape.text})"
            figures: dict[str, Any] = {}
            if wrong:
                print(f"{title}, {arithmetic}: WRONG, error {error:.1e}; not timed")
            else:
                figures = race(contestants, args.device, args.rounds)
                report_race(title, arithmetic, figures)
        found.append(
            {"part": part, "shape": name, "sizes": shape.text, "arithmetic": arithmetic}
            | {"error": error, "wrong": wrong, "figures": figures}
        )
        del contestants, runs
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()
    return found


def profile(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time of each kernel of one forward and backward of the op, and of the layer."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    if args.device == "cpu":
        activities = [torch.profiler.ProfilerActivity.CPU]
    found = []
    for (name, shape), arithmetic in itertools.product(args.shapes.items(), args.arithmetics):
        dtype = dtype_of(arithmetic)
        runs = {
            "op": ForwardBackward(implementation("triton"), shape, args.device, dtype),
            "layer": LayerStep(shape, args.device, dtype, "triton"),
        }
        for part, run in runs.items():
            with matmuls_in(arithmetic):
                run()
                with torch.profiler.profile(activities=activities) as profiler:
                    run()
                    wait(args.device)
            kernels = {
                event.key: event.device_time_total * 1e-6
                for event in profiler.key_averages()
                if event.device_time_total > 0
            }
            longest = dict(sorted(kernels.items(), key=lambda item: -item[1])[:12])
            print(f"profile: {part}: {name} ({shape.text}), {arithmetic}")
            for kernel, seconds in longest.items():
                print(f"  {seconds * 1e3:9.3f} ms  {kernel[:90]}", flush=True)
            found.append(
                {"part": part, "shape": name, "arithmetic": arithmetic, "kernels": longest}
            )
    return found


def candidate_blocks(shape: Shape, arithmetic: str) -> Iterator[Any]:
    """The default, and what differs from it in one thing or two."""
    from axial_d2.ops.axial_attention.triton_blocks import default_blocks

    half = arithmetic in ("bfloat16", "float16")
    default = default_blocks(shape.key_channels, shape.value_channels, half)
    yield default
    for warps, registers in itertools.product((4, 8, 16), (96, 128, 168, None)):
        if warps == 16 and registers == 168:
            continue  # more than a multiprocessor has
        yield dataclasses.replace(
            default, forward_warps=warps, backward_warps=warps, registers=registers
        )
    yield dataclasses.replace(default, keep=not default.keep)
    yield dataclasses.replace(default, keys=32)
    yield dataclasses.replace(default, groups=32)
    yield dataclasses.replace(default, queries=32)


def seconds_with(blocks: Any, inputs: Any, device: str) -> tuple[float, float]:
    """Of a forward and a backward with these block shapes, without autograd around them."""
    from axial_d2.ops.axial_attention.triton_gradients import backward
    from axial_d2.ops.axial_attention.triton_launch import forward
    from axial_d2.ops.fused_operators import Saved

    saved = Saved(*forward(inputs, blocks))
    assert saved.content is not None
    upstream = torch.ones_like(saved.content), torch.ones_like(saved.content)
    runs = (
        partial(forward, inputs, blocks),
        partial(backward, inputs, saved, upstream, blocks=blocks),
    )
    for run in runs:
        run()
    once, again = (min(seconds_a_call(run, 5, device) for _ in range(3)) for run in runs)
    return once, again


def sweep(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Times of all candidate block shapes; those that the GPU has no room for are named."""
    from axial_d2.ops.axial_attention.triton_launch import Inputs

    found = []
    for name, arithmetic in itertools.product(args.swept, args.arithmetics):
        shape = args.shapes[name]
        tensors = [each.detach() for each in inputs_of(shape, args.device, dtype_of(arithmetic))]
        inputs = Inputs._make((*tensors, shape.span, True, arithmetic))
        rows = []
        print(f"sweep: {name} ({shape.text}), {arithmetic}; forward + backward, default first")
        for blocks in dict.fromkeys(candidate_blocks(shape, arithmetic)):
            row: dict[str, Any] = dataclasses.asdict(blocks)
            try:
                row["forward_s"], row["backward_s"] = seconds_with(blocks, inputs, args.device)
                times = f"{row['forward_s'] * 1e3:8.3f} + {row['backward_s'] * 1e3:8.3f} ms"
            except Exception as fault:  # out of shared memory or registers; said, not hidden
                row["fault"] = times = f"{type(fault).__name__}: {str(fault)[:80]}"
            rows.append(row)
            print(f"  {times}  {blocks}", flush=True)
        found.append({"shape": name, "arithmetic": arithmetic, "rows": rows})
    return found


def checks(args: argparse.Namespace) -> list[dict[str, Any]]:
    found = []
    for arithmetic, shape in itertools.product(args.arithmetics, args.checked):
        result = check_shape(shape, args.device, arithmetic)
        found.append(result)
        if not result["passed"]:
            print(f"FAILED {result}", flush=True)
    for arithmetic in args.arithmetics:
        own = [each for each in found if each["arithmetic"] == arithmetic]
        print(
            f"check: {arithmetic}: {sum(each['passed'] for each in own)} of {len(own)} passed, "
            f"largest error {max(each['error'] for each in own):.1e} "
            f"(allowed {TOLERANCES[arithmetic]:.0e}), bits the same in two runs: "
            f"{all(each['same_bits'] for each in own)}",
            flush=True,
        )
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny, interpreted")
    add("--only", choices=PARTS, action="append", help="default: check, op and layer")
    add("--arithmetic", choices=ARITHMETICS, action="append", help="default: all but float16")
    add("--rounds", type=int, default=ROUNDS)
    add("--json", type=Path, default=ROOT / "output" / "benchmarks" / "gpu_axial_layer.json")
    args = parser.parse_args()
    args.parts = args.only or list(PARTS[:3])
    args.arithmetics = args.arithmetic or list(ARITHMETICS[:3])
    args.shapes, args.swept, args.checked = SHAPES, SWEPT, CHECKED
    if args.device == "cpu":
        args.shapes, args.swept, args.checked = TINY, tuple(TINY), list(TINY.values())
        args.rounds = 1
    return args


def environment(device: str) -> dict[str, Any]:
    import triton

    found = {"python": platform.python_version(), "torch": torch.__version__}
    found |= {"triton": triton.__version__, "device": device}
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return found


def main() -> int:
    args = parse_arguments()
    report: dict[str, Any] = {"environment": environment(args.device)}
    print(report["environment"], flush=True)
    if "check" in args.parts:
        report["checks"] = checks(args)
    for part in ("op", "layer"):
        if part in args.parts:
            report[part] = time_shapes(args, part)
    for part, measure in (("profile", profile), ("sweep", sweep)):
        if part in args.parts:
            report[part] = measure(args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(f"figures: {args.json}")
    wrong = [each for each in report.get("checks", []) if not each["passed"]]
    wrong += [each for each in report.get("op", []) if each["wrong"]]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
