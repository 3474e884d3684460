"""Heads whose resizes map corner pixels onto corner pixels, and constants of their norms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_heads import SHAPES, features, instance_head, semantic_head
from torch import Tensor, nn

Build = Callable[..., nn.Module]
BUILD = [semantic_head, instance_head]


def grid_features(height: int, width: int) -> dict[str, Tensor]:
    """Of an image of 16k + 1 pixels a side."""
    found = {}
    for name, shape in SHAPES.items():
        cells = [(side - 1) // shape.stride + 1 for side in (height, width)]
        found[name] = torch.randn(1, shape.channels, *cells)
    return found


def test_the_decoder_upsamples_corner_to_corner() -> None:
    """Against the same modules, called one by one."""
    head = semantic_head(align_corners=True)
    inputs = grid_features(33, 65)
    y = inputs["res5"]
    for name in ("res3", "res2"):
        stage = head.decoder[name]
        low = stage["project_conv"](inputs[name])
        y = F.interpolate(y, low.shape[-2:], mode="bilinear", align_corners=True)
        y = stage["fuse_conv"](torch.cat([low, y], dim=1))
    expected = head.predictor(head.head(y))
    torch.testing.assert_close(head.layers(inputs), expected, rtol=0, atol=0)
    head.align_corners = False
    assert not torch.allclose(head.layers(inputs), expected)


@pytest.mark.parametrize("build", BUILD)
def test_off_by_default(build: Build) -> None:
    torch.manual_seed(1)
    plain = build()
    torch.manual_seed(1)
    explicit = build(align_corners=False, norm_eps=1e-5, norm_momentum=0.1)
    inputs = features()
    for given, expected in zip(plain.layers(inputs), explicit.layers(inputs), strict=True):
        assert torch.equal(given, expected)


@pytest.mark.parametrize("build", BUILD)
def test_every_norm_of_a_head_has_its_constants(build: Build) -> None:
    norms = [m for m in build(norm_eps=1e-3, norm_momentum=0.01).modules() if hasattr(m, "eps")]
    assert len(norms) > 6
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


@pytest.mark.parametrize(
    ("build", "key"), [(semantic_head, "SEM_SEG_HEAD"), (instance_head, "INS_EMBED_HEAD")]
)
def test_a_constant_out_of_range_names_its_key(build: Build, key: str) -> None:
    with pytest.raises(ValueError, match=rf"MODEL\.{key}\.NORM_EPS is 0"):
        build(norm_eps=0.0)


def aligned(predictions: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(predictions, size, mode="bilinear", align_corners=True)


# On the grid, where cells are 4 pixels apart, and off it.
SIZES = [(17, 33), (19, 34)]


@pytest.mark.parametrize("size", SIZES)
def test_the_semantic_loss_is_that_of_aligned_logits(size: tuple[int, int]) -> None:
    head = semantic_head(align_corners=True, loss_type="hard_pixel_mining")
    logits, targets = torch.randn(2, 5, 5, 9), torch.randint(5, (2, *size))
    weights = torch.rand(2, *size)
    (loss,) = head.losses(logits, targets, weights).values()
    each = F.cross_entropy(aligned(logits, size), targets, reduction="none") * weights
    hardest = each.flatten().topk(int(0.2 * each.numel())).values
    torch.testing.assert_close(loss, hardest.mean())


@pytest.mark.parametrize("size", SIZES)
def test_the_center_loss_is_that_of_an_aligned_heatmap(size: tuple[int, int]) -> None:
    heatmap, targets = torch.randn(2, 1, 5, 9), torch.randn(2, 1, *size)
    weights = torch.ones(2, 1, *size)
    loss = instance_head(align_corners=True).center_losses(heatmap, targets, weights)
    expected = 200 * F.mse_loss(aligned(heatmap, size), targets)
    torch.testing.assert_close(loss["loss_center"], expected)


@pytest.mark.parametrize("size", SIZES)
def test_the_offset_loss_scales_by_the_distance_of_cells(size: tuple[int, int]) -> None:
    offsets, targets = torch.randn(2, 2, 5, 9), torch.randn(2, 2, *size)
    weights = torch.ones(2, 1, *size)
    loss = instance_head(align_corners=True).offset_losses(offsets, targets, weights)
    scale = torch.tensor([(size[0] - 1) / 4, (size[1] - 1) / 8])[:, None, None]
    expected = 2 * 0.01 * F.l1_loss(aligned(offsets, size) * scale, targets)
    torch.testing.assert_close(loss["loss_offset"], expected)


def test_what_is_predicted_right_costs_nothing() -> None:
    """Offsets to the pixel (8, 12), as cells say it and as pixels do."""
    rows, columns = torch.meshgrid(torch.arange(17.0), torch.arange(33.0), indexing="ij")
    targets = torch.stack([8 - rows, 12 - columns])[None]
    cells = targets[..., ::4, ::4] / 4
    loss = instance_head(align_corners=True).offset_losses(cells, targets, torch.ones(1, 1, 17, 33))
    assert loss["loss_offset"] < 1e-6
