"""Convolutions that compute their batch norm themselves where it uses running statistics."""

from __future__ import annotations

import torch.nn.functional as F
from axial_d2.layers.norm import running_affine, uses_batch_statistics
from axial_d2.layers.recompute import forgetting
from detectron2.layers import Conv2d
from torch import Tensor


class FoldingConv2d(Conv2d):
    """Detectron2's ``Conv2d``, one pass over the output less in inference.

    In ``eval()``, and with a frozen norm always, the norm's scale goes into the weights and its
    shift becomes the bias, anew at every call: nothing is stored, ``state_dict`` and gradients
    are those of the convolution and the norm, and ``train()`` takes it back. The norm must be a
    batch norm.

    With ``recomputes`` training does not keep the convolution's output for the norm's backward,
    but convolves again; for convolutions without bias and activation.
    """

    recomputes = False

    def forward(
        self, x: Tensor, gain: Tensor | None = None, offset: Tensor | None = None
    ) -> Tensor:
        """[B, in_channels, H, W] → [B, out_channels, H', W'].

        Args:
            gain, offset: [out_channels]; the norm's output is multiplied by ``gain`` and
                ``offset`` is added. They need a norm that uses running statistics.
        """
        if self.norm is None or uses_batch_statistics(self.norm):
            assert gain is None
            assert offset is None
            return self._by_the_batch(x) if self.recomputes else super().forward(x)
        scale, shift = running_affine(self.norm)
        if gain is not None:
            scale, shift = scale * gain, shift * gain
        if offset is not None:
            shift = shift + offset
        bias = shift if self.bias is None else shift + self.bias * scale
        weight = self.weight * scale[:, None, None, None]
        x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)

    def _by_the_batch(self, x: Tensor) -> Tensor:
        assert self.bias is None
        assert self.activation is None
        return forgetting(self._convolve, (x, self.weight), self.norm)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)
