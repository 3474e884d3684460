"""Peak memory of one side, in a fresh process that builds and runs nothing else.

On the CPU it is how far the process's resident set grows beyond what the imports took, as Linux
counts it; on CUDA it is what PyTorch's allocator had handed out at most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.environment import give_back_freed_memory, give_back_large_tensors
from benchmarks.registry import DEVICES, Registry, Setting, Side, load

ROOT = Path(__file__).parents[1]
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def peak_memory(name: str, side: str, setting: Setting) -> int | None:
    """Bytes, or None where the system does not say (the CPU's, outside of Linux).

    Args:
        name: of a case or a sweep.
        side: see :func:`side_labels`.
    """
    if setting.device == "cpu" and not STATUS.exists():
        return None
    give_back_freed_memory()
    arguments = [name, side, "--device", setting.device]
    arguments += ["--quick"] if setting.quick else []
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak_memory", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(process.stdout.splitlines()[-1])


def side_labels(registry: Registry, name: str, setting: Setting) -> dict[str, tuple[Side, int]]:
    """The sides of a case or a sweep by what identifies them, with the calls that they need."""
    if name in registry.cases:
        contest = registry.cases[name].build(setting)
        calls = contest.calls_for_peak
        return {side.name: (side, calls) for side in (contest.ours, *contest.peers)}
    points = registry.sweeps[name].build(setting)
    return {point_label(*key): (side, 1) for key, side in points.sides.items()}


def point_label(series: str, x: float) -> str:
    return f"{series} at {x:g}"


def measure_here(side: Side, calls: int, device: str) -> int:
    """Bytes that building and running it takes in this process."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")
        before = _status_bytes("VmRSS")
    run = side.build()
    for _ in range(calls):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return _status_bytes("VmHWM") - before


def _status_bytes(key: str) -> int:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("side")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(arguments)
    if args.device == "cpu":
        give_back_large_tensors()
    sides = side_labels(load(), args.name, Setting(args.device, args.quick))
    print(json.dumps(measure_here(*sides[args.side], args.device)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
