"""Less memory in training: what is cheap to compute again is not kept for the backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_CONVOLUTION = "ConvolutionBackward0"


def forgetting(output: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function(output)`` for a convolution's output, which it may need again in the backward.

    Whatever the function saves of ``output`` itself is not kept: the backward convolves once
    more, from the input and weight that the convolution has saved for its own backward anyway.
    Values and gradients are those of ``function(output)``; changing input or weight in between is
    an error as always. Where nothing is saved, and under ``torch.compile``, which decides for
    itself what it keeps, this just calls the function.
    """
    node = output.grad_fn
    if torch.compiler.is_compiling() or node is None or node.name() != _CONVOLUTION:
        return function(output)
    address, shape = output.data_ptr(), output.shape

    def pack(saved: Tensor) -> Any:
        return node if (saved.data_ptr(), saved.shape) == (address, shape) else saved

    def unpack(kept: Any) -> Tensor:
        return kept if isinstance(kept, Tensor) else _convolved(kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return function(output)


@torch.no_grad()
def _convolved(node: Any) -> Tensor:
    """The output of a convolution without bias, from its node in the graph."""
    return torch.convolution(
        node._saved_input,
        node._saved_weight,
        None,
        node._saved_stride,
        node._saved_padding,
        node._saved_dilation,
        node._saved_transposed,
        node._saved_output_padding,
        node._saved_groups,
    )
