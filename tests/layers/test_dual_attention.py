"""Dual attention's layers: identities, and the pictures' maps agree with what is computed."""

from __future__ import annotations

import pytest
import torch
from axial_d2.layers import ChannelAttention, PositionAttention
from torch import nn


@pytest.mark.parametrize("layer", [PositionAttention(16), ChannelAttention()])
def test_a_new_layer_is_the_identity(layer: nn.Module) -> None:
    x = torch.randn(2, 16, 3, 5)
    assert torch.equal(layer(x), x)


def test_the_scale_of_the_attention_learns_from_the_start() -> None:
    x = torch.randn(2, 16, 3, 5)
    for layer, name in ((PositionAttention(16), "alpha"), (ChannelAttention(), "beta")):
        (layer(x) * torch.randn_like(x)).sum().backward()
        assert getattr(layer, name).grad.abs() > 1e-3


def test_positions_are_residual_sums_by_the_maps_that_pictures_show() -> None:
    layer = PositionAttention(16, key_channels=3).double()
    nn.init.constant_(layer.alpha, 0.7)
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    positions = torch.tensor([[0, 0], [2, 3], [1, 4]])
    maps = layer.weights(x, positions)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, 3, dtype=torch.float64))
    values, output = layer.value(x), layer(x)
    for index, (row, column) in enumerate(positions.tolist()):
        gathered = (maps[:, index, None] * values).sum(dim=(2, 3))
        expected = x[:, :, row, column] + 0.7 * gathered
        torch.testing.assert_close(output[:, :, row, column], expected)


def test_permuting_positions_permutes_the_output() -> None:
    layer = PositionAttention(16).double()
    nn.init.ones_(layer.alpha)
    x = torch.randn(1, 16, 4, 3, dtype=torch.float64)
    order = torch.randperm(12)
    permuted = x.flatten(2)[..., order].unflatten(2, (4, 3))
    torch.testing.assert_close(layer(permuted), layer(x).flatten(2)[..., order].view_as(x))


def test_channels_are_residual_sums_by_the_weights() -> None:
    layer = ChannelAttention("reversed_energy").double()
    nn.init.constant_(layer.beta, -0.4)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    attended = torch.einsum("bij,bjhw->bihw", layer.weights(x), x)
    torch.testing.assert_close(layer(x), x - 0.4 * attended)


def test_key_channels_are_an_eighth() -> None:
    assert PositionAttention(64).query.out_channels == 8
    assert PositionAttention(4).query.out_channels == 1
