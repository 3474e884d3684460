"""Whether the fused kernels can take some tensors; imports no Triton."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_CHANNELS = 128
CAPABILITY = (8, 0)

FOUND = importlib.util.find_spec("triton") is not None
# Triton reads it when it is imported and interprets its kernels on the CPU.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def obstacle(
    query: Tensor, key: Tensor, value: Tensor | None, *tables_and_scale: Tensor | None
) -> str | None:
    """What keeps the kernels from these arguments of the op, in words; None if nothing does."""
    tensors = [each for each in (query, key, value, *tables_and_scale) if each is not None]
    return _of_machine(query) or _of_tensors(tensors) or _of_channels(query, value)


def chooses(query: Tensor, *others: Tensor | None) -> bool:
    """Whether "auto" means the fused kernels for these arguments; never those interpreted."""
    return query.is_cuda and obstacle(query, *others) is None  # type: ignore[arg-type]


def require(*tensors: Tensor | None) -> None:
    """Raises ValueError, which says why, if the kernels cannot take these arguments of the op."""
    fault = obstacle(*tensors)  # type: ignore[arg-type]
    if fault is not None:
        raise ValueError(
            f'attention implementation "triton" cannot be used: {fault}. '
            'Choose "auto", which uses it where it can be, or "blocked".'
        )


def of_one_dtype(
    query: Tensor, key: Tensor, value: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """In the dtype that holds all of them."""
    dtype = torch.promote_types(query.dtype, key.dtype)
    if value is not None:
        dtype = torch.promote_types(dtype, value.dtype)
        value = value.to(dtype)
    return query.to(dtype), key.to(dtype), value


def _of_machine(query: Tensor) -> str | None:
    if not FOUND:
        return "the package triton is not installed (PyTorch for CUDA on Linux brings it)"
    if query.device.type == "cpu" and INTERPRETED:
        return None
    if not query.is_cuda:
        return f"it needs a CUDA device, and the tensors are on {query.device.type}"
    if torch.version.hip is not None:
        return "it is written for NVIDIA GPUs, and this PyTorch is built for ROCm"
    if not _new_enough(query.device.index):
        return "it needs a GPU of compute capability 8.0 or more"
    return None


def _of_tensors(tensors: list[Tensor]) -> str | None:
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            return f"it computes float32, bfloat16 and float16, not {tensor.dtype}"
        if tensor.device != tensors[0].device:
            return f"its tensors are on {tensors[0].device} and on {tensor.device}"
    return None


def _of_channels(query: Tensor, value: Tensor | None) -> str | None:
    for tensor in (query, value):
        if tensor is not None and tensor.shape[-1] > MAX_CHANNELS:
            return f"a head has at most {MAX_CHANNELS} channels, not {tensor.shape[-1]}"
    return None


def _new_enough(device: int) -> bool:
    # torch.compile cannot trace the question, and has an answer of its own for older devices.
    return torch.compiler.is_compiling() or _capability(device) >= CAPABILITY


@functools.cache
def _capability(device: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
