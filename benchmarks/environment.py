"""The machine and the versions that figures belong to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "triton", "numpy")
CPU_INFO = Path("/proc/cpuinfo")


def environment(device: str) -> dict:
    """Machine, versions and threads, as the report and the JSON file have them."""
    import axial_d2
    import detectron2

    versions = {"python": platform.python_version(), "axial_d2": axial_d2.__version__}
    versions["commit"] = _commit()
    versions["detectron2"] = detectron2.__version__
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "none"
    machine = {"cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.system()}
    if device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
        versions["cuda"] = str(torch.version.cuda)
        versions["cudnn"] = str(torch.backends.cudnn.version())
    return {"machine": machine, "versions": versions, "threads": torch.get_num_threads()}


def keep_freed_memory() -> None:
    """Has glibc keep what is freed instead of giving it back to the system.

    It gives large tensors back at once, and gets the next one's memory page by page: at 2049² that
    is half of the time, of any network. ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1`` in the
    environment does the same. Other allocators have no such option.
    """
    trim_threshold, mmap_max = -1, -4  # as malloc.h numbers mallopt's options
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)


def give_back_large_tensors() -> None:
    """Has glibc give back to the system at once what a tensor of 128 KiB or more has held.

    Otherwise it comes to keep tensors of up to 32 MiB in its heap, whose holes do not fit the next
    ones: peaks of one and the same program then differ by half. For measuring what a program needs;
    ``MALLOC_MMAP_THRESHOLD_=131072`` in the environment does the same.
    """
    mmap_threshold = -3  # as malloc.h numbers it
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(mmap_threshold, 128 * 1024)


def give_back_freed_memory() -> None:
    """Undoes what :func:`keep_freed_memory` has kept, for a process that follows."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _cpu_name() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Of the checkout, with a plus sign if it has changes; "unknown" outside of one."""
    root = Path(__file__).parents[1]
    try:
        commit = _git(root, "rev-parse", "--short", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
