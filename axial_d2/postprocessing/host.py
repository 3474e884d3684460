"""When the steps may depend on what is in a tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def reads_are_free(tensor: Tensor) -> bool:
    """Whether the host can look at a tensor: no device has to be waited for, nothing is traced.

    Then it may do what saves time for the numbers at hand. Elsewhere the steps and all shapes are
    the same whatever they are, with the same result.
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
