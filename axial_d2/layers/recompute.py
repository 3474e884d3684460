"""Less memory in training: what is cheap to compute again is not kept for the backward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_keeping = False


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Inside, :func:`forgetting` forgets nothing: for what is checkpointed as a whole."""
    global _keeping
    before, _keeping = _keeping, True
    try:
        yield
    finally:
        _keeping = before


def forgetting(
    compute: Callable[..., Tensor], inputs: Sequence[Tensor], function: Callable[[Tensor], Tensor]
) -> Tensor:
    """``function(compute(*inputs))`` that keeps ``inputs`` rather than what is computed of them.

    Whatever the function saves for its backward of its argument itself is computed again there,
    under the autocast of the forward. Values and gradients are those of the plain call. Under
    ``torch.compile``, which decides for itself what it keeps, this is the plain call.

    Raises:
        RuntimeError: in the backward, if an input has been changed in place in between.
    """
    output = compute(*inputs)
    if torch.compiler.is_compiling() or _keeping or not output.requires_grad:
        return function(output)
    address, shape = output.data_ptr(), output.shape
    again = _Again(compute, inputs)

    def pack(saved: Tensor) -> Any:
        return again if (saved.data_ptr(), saved.shape) == (address, shape) else saved

    def unpack(kept: Any) -> Tensor:
        return kept() if isinstance(kept, _Again) else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return function(output)


class _Again:
    """A computation that can be done once more; it keeps its inputs."""

    def __init__(self, compute: Callable[..., Tensor], inputs: Sequence[Tensor]):
        self.compute = compute
        self.inputs = [each.detach() for each in inputs]  # which share the counter of changes
        self.versions = [each._version for each in inputs]
        device = inputs[0].device.type
        self.autocast: dict[str, Any] = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }

    @torch.no_grad()
    def __call__(self) -> Tensor:
        if [each._version for each in self.inputs] != self.versions:
            raise RuntimeError(
                "an input or weight that the backward needs was changed in place after the "
                "forward; call backward() before optimizer.step() and the like."
            )
        with torch.autocast(**self.autocast):
            return self.compute(*self.inputs)
