"""Batch norm inside and outside attention, always one of Detectron2's own modules."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from axial_d2.ops import LogitMoments
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm, get_norm
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn

NORM_CHOICES = ("BN", "SyncBN", "naiveSyncBN", "FrozenBN")


def check_norm(norm: str, name: str = "norm") -> None:
    """Raises ValueError unless ``norm`` is a batch norm that attention can use."""
    if norm not in NORM_CHOICES:
        raise ValueError(
            f"{name} {norm!r} is not supported; choose one of {NORM_CHOICES}. Attention normalises "
            "its logits over the batch, so other norms have no meaning there."
        )


def build_norm(norm: str, num_channels: int, zero_init: bool = False) -> nn.Module:
    """A batch norm over ``num_channels`` channels.

    Args:
        norm: one of :data:`NORM_CHOICES`.
        num_channels: channels of its input.
        zero_init: start with weight 0, so that a residual branch starts as nothing (a frozen
            norm could never leave 0 and starts at 1).

    Raises:
        ValueError: an unknown norm.
    """
    check_norm(norm)
    module = get_norm(norm, num_channels)
    if zero_init and isinstance(module.weight, nn.Parameter):
        nn.init.zeros_(module.weight)
    return module


def normalise(norm: nn.Module, image: Tensor) -> Tensor:
    """``norm(image)`` for [B, C, H, W], with right gradients for a single row or column too.

    Batch norm's backward on CPUs (PyTorch 2.11) misreads strides that an extent of 1 makes
    ambiguous.
    """
    if 1 not in image.shape[2:]:
        return norm(image)
    return with_plain_gradient(norm(image.contiguous()))


def with_plain_gradient(normalised: Tensor) -> Tensor:
    """A batch norm's output, whose gradient will be contiguous; see :func:`normalise`."""
    if normalised.requires_grad:
        normalised.register_hook(_contiguous)
    return normalised


def _contiguous(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.contiguous()


def logit_norm_scale(norm: Any, moments: LogitMoments | None) -> Tensor:
    """What a batch norm of the logits multiplies its input by, [channels].

    Only the factor matters in front of a softmax, which ignores the shift. In training the
    running statistics of ``norm`` are updated just as its own ``forward`` would have done, so
    that checkpoints, freezing and precise batch norm see an ordinary batch norm.

    Args:
        norm: one of the modules :func:`build_norm` returns.
        moments: of the logits in this batch, needed when :func:`uses_batch_statistics`.
    """
    if uses_batch_statistics(norm):
        assert moments is not None
        variance = _update_statistics(norm, moments)
    else:
        variance = norm.running_var
    scale = norm.weight * (variance + norm.eps).rsqrt()
    if isinstance(norm.bias, nn.Parameter) and norm.bias.requires_grad:
        # A gradient of zero rather than none: DistributedDataParallel waits for every parameter.
        scale = scale + 0.0 * norm.bias
    return scale


def running_affine(norm: Any) -> tuple[Tensor, Tensor]:
    """What a norm that uses running statistics multiplies by and adds, [channels] each."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def uses_batch_statistics(norm: Any) -> bool:
    """Whether ``norm`` normalises by the batch at hand rather than by running statistics."""
    return norm.training and not isinstance(norm, FrozenBatchNorm2d)


def _update_statistics(norm: Any, moments: LogitMoments) -> Tensor:
    """Updates the running statistics; returns the variance to normalise by, [3N]."""
    _run_forward_pre_hooks(norm, moments)
    mean, variance = moments.mean.flatten(), moments.variance.flatten()
    count = torch.tensor(float(moments.count), device=mean.device)
    unbiased = not isinstance(norm, NaiveSyncBatchNorm)
    if isinstance(norm, (nn.SyncBatchNorm, NaiveSyncBatchNorm)):
        mean, variance, count, distributed = _over_processes(mean, variance, count)
        unbiased = unbiased or not distributed
    if moments.count == 0:  # an empty batch says nothing; torch's norms ignore it too
        return norm.running_var
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)  # in place, which torch.compile can follow
        momentum = norm.momentum
        if momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
        recorded = variance * count / (count - 1).clamp(min=1) if unbiased else variance
        norm.running_mean.lerp_(mean.detach().to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_(recorded.detach().to(norm.running_var.dtype), momentum)
    return variance


def _run_forward_pre_hooks(norm: Any, moments: LogitMoments) -> None:
    """Shows hooks the logits' number and channels, as a call of ``norm`` would.

    fvcore's precise batch norm learns the size of a batch from such a hook.
    """
    shape_only = moments.mean.detach().flatten().expand(moments.count, -1)
    for hook in norm._forward_pre_hooks.values():
        hook(norm, (shape_only,))


def _over_processes(
    mean: Tensor, variance: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Moments over all processes, each weighing what it counted; exact for unequal batches."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return mean, variance, count, False
    sums = differentiable_all_reduce(torch.cat([mean * count, count[None].to(mean)]))
    total = sums[-1].detach().clamp(min=1)
    total_mean = sums[:-1] / total
    deviations = (variance + (mean - total_mean).square()) * count
    return total_mean, differentiable_all_reduce(deviations) / total, total, True
