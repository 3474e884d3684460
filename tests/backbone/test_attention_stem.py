"""SASA's attention stem equals a loop over pixels, also where blocks lie across the border."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from axial_d2.backbone.attention_stem import AttentionStem
from tiny_backbones import ceil_div
from torch import Tensor, nn

INPUT, OUTPUT, HEADS = 3, 8, 2
SIDE, MIXTURES = 4, 4

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def make(**options: Any) -> AttentionStem:
    stem = AttentionStem(INPUT, OUTPUT, **{"num_heads": HEADS, **options})
    for name, tensor in stem.norm.state_dict().items():
        if name.startswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
        elif tensor.dim():
            nn.init.normal_(tensor)
    return stem.double()


def block_of(y: int, x: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """Pixels of the image in the same 4×4 block."""
    top, left = y - y % SIDE, x - x % SIDE
    for row in range(top, min(top + SIDE, height)):
        for column in range(left, min(left + SIDE, width)):
            yield row, column


def mixtures(stem: AttentionStem, a: int, b: int) -> list[Tensor]:
    """p(a, b, m) for every m."""
    place = stem.row_embedding[a] + stem.column_embedding[b]
    exponentials = [(place * nu).sum().exp() for nu in stem.mixture_embedding]
    return [each / sum(exponentials) for each in exponentials]


def value_at(stem: AttentionStem, image: Tensor, y: int, x: int) -> Tensor:
    """(sum of p(a, b, m) W_V^m) x: a projection that depends on the place in the block."""
    matrices = stem.value.weight[:, :, 0, 0].view(MIXTURES, OUTPUT, INPUT)
    weights = mixtures(stem, y % SIDE, x % SIDE)
    matrix = sum(p * w for p, w in zip(weights, matrices, strict=True))
    return matrix @ image[:, y, x]


def attended_at(stem: AttentionStem, image: Tensor, y: int, x: int) -> Tensor:
    """Softmax over the block, head by head."""
    w_query, w_key = stem.query.weight[:, :, 0, 0], stem.key.weight[:, :, 0, 0]
    pixels = list(block_of(y, x, *image.shape[1:]))
    query = w_query @ image[:, y, x]
    keys = torch.stack([w_key @ image[:, r, c] for r, c in pixels])
    values = torch.stack([value_at(stem, image, r, c) for r, c in pixels])
    outputs = []
    for part in torch.arange(OUTPUT).chunk(stem.num_heads):
        exponentials = (keys[:, part] @ query[part]).exp()
        outputs.append(exponentials @ values[:, part] / exponentials.sum())
    return torch.cat(outputs)


def naive_stem(stem: AttentionStem, images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    attended = torch.stack(
        [
            torch.stack(
                [
                    torch.stack([attended_at(stem, image, y, x) for x in range(width)], dim=1)
                    for y in range(height)
                ],
                dim=1,
            )
            for image in images
        ]
    )
    norm = stem.norm
    normalised = F.batch_norm(
        attended,
        norm.running_mean.clone(),
        norm.running_var.clone(),
        norm.weight,
        norm.bias,
        training=stem.training,
    )
    rows, columns = (range(0, side, SIDE) for side in (height, width))
    pooled = [
        [normalised[:, :, y : y + SIDE, x : x + SIDE].amax((2, 3)) for x in columns] for y in rows
    ]
    return torch.stack([torch.stack(row, dim=2) for row in pooled], dim=2).clamp(min=0)


@pytest.mark.parametrize("implementation", ["auto", "reference", "fused"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [(4, 4), (4, 8), (1, 1), (2, 7), (5, 6)])
def test_equals_the_loop_over_pixels(
    size: tuple[int, int], training: bool, implementation: str
) -> None:
    stem = make(implementation=implementation).train(training)
    x = torch.randn(2, INPUT, *size, dtype=torch.float64, requires_grad=True)
    leaves = [x, *stem.parameters()]
    want, got = naive_stem(stem, x), stem(x)
    close(got, want)
    cotangent = torch.randn_like(want)
    for leaf, first, second in zip(
        ("x", *dict(stem.named_parameters())),
        torch.autograd.grad(got, leaves, cotangent),
        torch.autograd.grad(want, leaves, cotangent),
        strict=True,
    ):
        close(first, second, msg=lambda text, leaf=leaf: f"gradient of {leaf}: {text}")


def test_running_statistics_count_pixels_of_the_image_alone() -> None:
    """5×6 pixels an image, not the 8×8 that whole blocks would have."""
    stem = make()
    stem.norm.momentum = 1.0
    seen = []
    stem.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    stem(torch.randn(2, INPUT, 5, 6, dtype=torch.float64))
    assert seen[0].shape == (2, OUTPUT, 5, 6)
    close(stem.norm.running_var, seen[0].transpose(0, 1).flatten(1).var(1))


def test_blocks_do_not_see_each_other() -> None:
    stem = make().eval()
    x = torch.randn(2, INPUT, 9, 10, dtype=torch.float64)
    changed = x.clone()
    changed[1, :, 8, 5] += 3  # the middle block of the last row, which is one pixel high
    touched = (stem(changed) - stem(x)).abs().sum(1) > 1e-12
    expected = torch.zeros(2, 3, 3, dtype=torch.bool)
    expected[1, 2, 1] = True
    assert torch.equal(touched, expected)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_image_cut_at_a_block_is_the_same_there(training: bool) -> None:
    """What lies outside is neither attended to nor pooled, so whole blocks do not change."""
    stem = make().train(training)
    if training:  # statistics depend on all pixels
        stem.norm.eval()
    x = torch.randn(1, INPUT, 11, 7, dtype=torch.float64)
    close(stem(x)[:, :, :2, :1], stem(x[:, :, :8, :4]))


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (8, 12), (33, 65)])
def test_output_size_is_a_quarter_rounded_up(size: tuple[int, int]) -> None:
    stem = make().eval()
    assert stem.stride == SIDE
    out = stem(torch.randn(1, INPUT, *size, dtype=torch.float64))
    assert out.shape == (1, OUTPUT, *(ceil_div(side, SIDE) for side in size))


def test_mixture_weights_are_a_softmax_of_row_plus_column() -> None:
    stem = make()
    weights = stem.mixture_weights()
    assert weights.shape == (SIDE, SIDE, MIXTURES)
    close(weights.sum(2), torch.ones(SIDE, SIDE, dtype=torch.float64))
    for a in range(SIDE):
        for b in range(SIDE):
            close(weights[a, b], torch.stack(mixtures(stem, a, b)))


def test_one_mixture_that_wins_everywhere_is_a_plain_projection() -> None:
    """Then the place in the block does not matter: shuffling a block's pixels changes nothing."""
    stem = make().eval()
    x = torch.randn(1, INPUT, 4, 4, dtype=torch.float64)
    shuffled = x.flatten(2)[:, :, torch.randperm(16)].view_as(x)
    assert not torch.allclose(stem(shuffled), stem(x), atol=1e-3)
    with torch.no_grad():
        stem.row_embedding.fill_(1.0)
        stem.column_embedding.fill_(1.0)
        stem.mixture_embedding.fill_(0.0)
        stem.mixture_embedding[2] = 1e3
    close(stem(shuffled), stem(x))


def test_state_dict_keys_and_shapes_are_frozen() -> None:
    expected = {
        "query.weight": (64, 3, 1, 1),
        "key.weight": (64, 3, 1, 1),
        "value.weight": (256, 3, 1, 1),
        "row_embedding": (4, 16),
        "column_embedding": (4, 16),
        "mixture_embedding": (4, 16),
        "norm.num_batches_tracked": (),
    }
    for name in ("weight", "bias", "running_mean", "running_var"):
        expected[f"norm.{name}"] = (64,)
    stem = AttentionStem()
    assert stem.num_heads == 4  # the paper's
    assert {name: tuple(t.shape) for name, t in stem.state_dict().items()} == expected


def test_empty_batch_and_autocast() -> None:
    stem = make().float()
    assert stem(torch.zeros(0, INPUT, 5, 6)).shape == (0, OUTPUT, 2, 2)
    x = torch.randn(2, INPUT, 5, 6)
    single = stem(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = stem(x)
    assert (output.float() - single).norm() / single.norm() < 0.05
    output.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stem.parameters())


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_half_precision_stays_finite(size: tuple[int, int]) -> None:
    """What lies outside has a logit that float16 cannot hold."""
    stem = make(norm="FrozenBN").half()
    x = torch.randn(2, INPUT, *size).half()
    torch.testing.assert_close(stem(x).float(), stem.float()(x.float()), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_heads": 3}, "num_heads 3 does not divide"), ({"norm": "LN"}, "norm 'LN' is not supp")],
)
def test_constructor_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**options)
