"""Constants of batch norms that are not PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from axial_d2.layers import NORM_CHOICES, AxialAttention, build_norm
from axial_d2.layers.norm_constants import set_norm_constants
from detectron2.layers import FrozenBatchNorm2d
from torch import nn


@pytest.mark.parametrize("norm", NORM_CHOICES)
def test_every_kind_of_norm_normalises_by_them(norm: str) -> None:
    conv, batch_norm = nn.Conv2d(3, 4, 1).double(), build_norm(norm, 4).double()
    module = nn.Sequential(conv, batch_norm).eval()
    set_norm_constants(module, eps=0.5, momentum=0.25)
    batch_norm.state_dict()["running_var"].fill_(0.01)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(module(x), conv(x) / (0.01 + 0.5) ** 0.5)


def test_momentum_is_the_weight_of_the_new_batch() -> None:
    module = build_norm("BN", 4)
    set_norm_constants(module, eps=1e-3, momentum=0.25)
    x = torch.randn(8, 4, 3, 3)
    module(x)
    torch.testing.assert_close(module.running_mean, 0.25 * x.mean((0, 2, 3)))


def test_norms_inside_of_attention_follow() -> None:
    """The logits' norm too, which no forward of its own ever normalises."""
    layer, other = (AxialAttention(4, 4, 8, "width", num_heads=2, max_span=5) for _ in range(2))
    other.load_state_dict(layer.state_dict())
    set_norm_constants(layer, eps=1.0, momentum=0.5)
    x = torch.randn(2, 4, 3, 5)
    layer(x), other(x)
    for name in ("qkv.norm", "logit_norm", "retrieved_norm"):
        norm = layer.get_submodule(name)
        assert (norm.eps, norm.momentum) == (1.0, 0.5), name
        means = [each.state_dict()[f"{name}.running_mean"] for each in (layer, other)]
        assert not torch.equal(*means), name


def test_freezing_keeps_them() -> None:
    module = nn.Sequential(build_norm("BN", 4))
    set_norm_constants(module, eps=0.5, momentum=0.25)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(module)
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(frozen(x), x / 1.5**0.5)


def test_other_layers_are_left_alone() -> None:
    module = nn.Sequential(nn.GroupNorm(2, 4), nn.Dropout(0.5))
    set_norm_constants(module, eps=0.5, momentum=0.25)
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(module.eval()(x), F.group_norm(x, 2))


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ((0.0, 0.1), "MODEL.HEAD.NORM_EPS is 0.0; it must be greater than 0"),
        ((-1e-3, 0.1), "MODEL.HEAD.NORM_EPS is -0.001"),
        ((1e-3, 0.0), "MODEL.HEAD.NORM_MOMENTUM is 0.0; .* greater than 0 and at most 1"),
        ((1e-3, 1.5), "MODEL.HEAD.NORM_MOMENTUM is 1.5"),
    ],
)
def test_bad_constants_are_refused(constants: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        set_norm_constants(nn.BatchNorm2d(4), *constants, name="MODEL.HEAD")
