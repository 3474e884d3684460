"""What must hold whatever the definition says in detail."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from axial_d2.ops import axial_attention, local_attention, local_logit_moments, logit_moments
from cpu_implementations import ON_CPU
from naive_local_attention import FLOAT64, Inputs, random_inputs
from torch import Tensor

HEIGHT, WIDTH = 5, 7
close = functools.partial(torch.testing.assert_close, rtol=1e-11, atol=1e-11)

# The fused kernels know no float64; fused_local_kernels.py has their tests.
pytestmark = pytest.mark.parametrize("implementation", ["auto", *ON_CPU])


@pytest.mark.parametrize("tables", ["zero", "absent"])
@pytest.mark.parametrize("extra", [0, 6])
def test_window_over_the_whole_image_is_dot_product_attention(
    implementation: str, extra: int, tables: str
) -> None:
    def attend(span: int) -> tuple[Tensor | None, Tensor | None]:
        zeros = [torch.zeros(span, span, channels, dtype=FLOAT64) for channels in (2, 2, 3)]
        given = zeros if tables == "zero" else [None] * 3
        return local_attention(*features, *given, span=span, implementation=implementation)

    features = random_inputs(HEIGHT, WIDTH)[:3]
    flat = [tensor.flatten(2, 3) for tensor in features]
    want = F.scaled_dot_product_attention(*flat, scale=1.0).view_as(features[2])
    span = 2 * max(HEIGHT, WIDTH) - 1
    content, position = attend(span + extra)
    close(content, want)
    assert position is None if tables == "absent" else not position.any()
    assert not torch.allclose(attend(span - 2)[0], want)


def test_equal_logits_average_the_window(implementation: str) -> None:
    """Worked by hand: the keys of a window weigh the same; span 3 on 2 rows and 3 columns."""
    value = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], dtype=FLOAT64).view(1, 1, 2, 3, 1)
    zeros = torch.zeros_like(value)
    # Offsets (-1, -1) … (1, 1), row by row.
    value_table = torch.arange(1.0, 10.0, dtype=FLOAT64).view(3, 3, 1)
    content, position = local_attention(
        zeros, zeros, value, value_table=value_table, span=3, implementation=implementation
    )
    close(content.flatten(), torch.tensor([27 / 4, 63 / 6, 54 / 4] * 2, dtype=FLOAT64))
    want = torch.tensor([[7.0, 6.5, 6.0], [4.0, 3.5, 3.0]], dtype=FLOAT64)
    close(position.flatten(), want.flatten())


@pytest.mark.parametrize("which", ["query_table", "key_table"])
def test_offset_is_key_minus_query_rows_first(implementation: str, which: str) -> None:
    """A table that favours offset (0, +1), then (+1, 0), makes every position look there."""
    value = torch.arange(12, dtype=FLOAT64).view(1, 1, 3, 4, 1)
    ones = torch.ones_like(value)
    for (row, column), want in (
        ((1, 2), value[:, :, :, 1:]),
        ((2, 1), value[:, :, 1:]),
    ):
        table = torch.zeros(3, 3, 1, dtype=FLOAT64)
        table[row, column] = 100.0
        content, _ = local_attention(
            ones, ones, value, **{which: table}, span=3, implementation=implementation
        )
        close(content[:, :, : want.shape[2], : want.shape[3]], want)


def test_span_one_copies_the_value(implementation: str) -> None:
    inputs = random_inputs(HEIGHT, WIDTH, 1)
    content, position = local_attention(*inputs, span=1, implementation=implementation)
    close(content, inputs.value)
    close(position, inputs.value_table[0, 0].expand_as(position))


def test_permuting_the_batch_permutes_the_output(implementation: str) -> None:
    inputs = random_inputs(HEIGHT, WIDTH, 3, images=5)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = Inputs(*(tensor[order] for tensor in inputs[:3]), *inputs[3:])
    outputs = local_attention(*inputs, span=3, implementation=implementation)
    for got, want in zip(
        local_attention(*permuted, span=3, implementation=implementation), outputs, strict=True
    ):
        close(got, want[order])


def _moments(inputs: Inputs, span: int, implementation: str) -> tuple[Tensor, Tensor, int]:
    return local_logit_moments(*inputs[:2], *inputs[3:5], span, implementation)


def test_transposed_image_with_transposed_tables(implementation: str) -> None:
    inputs = random_inputs(HEIGHT, WIDTH, 5)
    transposed = Inputs(
        *(tensor.transpose(2, 3) for tensor in inputs[:3]),
        *(table.transpose(0, 1) for table in inputs[3:]),
    )
    outputs = local_attention(*inputs, span=5, implementation=implementation)
    for got, want in zip(
        local_attention(*transposed, span=5, implementation=implementation), outputs, strict=True
    ):
        close(got.transpose(2, 3), want)
    for got, want in zip(
        _moments(transposed, 5, implementation), _moments(inputs, 5, implementation), strict=True
    ):
        close(torch.as_tensor(got), torch.as_tensor(want))


@pytest.mark.parametrize("dim", [0, 1])
def test_mirrored_image_with_mirrored_tables(implementation: str, dim: int) -> None:
    inputs = random_inputs(HEIGHT, WIDTH, 5)
    mirrored = Inputs(
        *(tensor.flip(2 + dim) for tensor in inputs[:3]),
        *(table.flip(dim) for table in inputs[3:]),
    )
    outputs = local_attention(*inputs, span=5, implementation=implementation)
    for got, want in zip(
        local_attention(*mirrored, span=5, implementation=implementation), outputs, strict=True
    ):
        close(got.flip(2 + dim), want)


@pytest.mark.parametrize("span", [1, 3, 7, 13, 21])
def test_one_row_is_attention_along_the_width(implementation: str, span: int) -> None:
    inputs = random_inputs(1, WIDTH, span)
    scale = torch.rand(3, 2, dtype=FLOAT64)
    rows = [tensor[:, :, 0] for tensor in inputs[:3]]
    tables = [table[span // 2] for table in inputs[3:]]
    outputs = local_attention(*inputs, scale, span=span, implementation=implementation)
    along = axial_attention(*rows, *tables, scale, span=span, implementation="reference")
    for got, want in zip(outputs, along, strict=True):
        close(got[:, :, 0], want)
    moments = logit_moments(*rows[:2], *tables[:2], span, "reference")
    for got, want in zip(_moments(inputs, span, implementation), moments, strict=True):
        close(torch.as_tensor(got), torch.as_tensor(want))


def test_what_lies_beyond_the_reach_does_not_matter(implementation: str) -> None:
    """Of two windows in one image, changing a pixel changes those that hold it."""
    inputs = random_inputs(HEIGHT, WIDTH, 3)
    changed = inputs._replace(key=inputs.key.clone(), value=inputs.value.clone())
    changed.key[:, :, 2, 3] += 1
    changed.value[:, :, 2, 3] += 1
    outputs = [
        local_attention(*each, span=3, implementation=implementation)[0]
        for each in (inputs, changed)
    ]
    differs = (outputs[0] - outputs[1]).abs().amax((0, 1, 4)) > 1e-9
    near = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    near[1:4, 2:5] = True
    assert torch.equal(differs, near)


def test_scales_are_those_of_their_term_and_head(implementation: str) -> None:
    """Scaling q·k and q·r of head 1 alone is scaling its query."""
    inputs = random_inputs(HEIGHT, WIDTH, 3)
    scale = torch.ones(3, 2, dtype=FLOAT64)
    scale[:2, 1] = 0.3
    query = inputs.query.clone()
    query[:, 1] *= 0.3
    for got, want in zip(
        local_attention(*inputs, scale, span=3, implementation=implementation),
        local_attention(query, *inputs[1:], span=3, implementation=implementation),
        strict=True,
    ):
        close(got, want)


def test_large_logits_do_not_overflow(implementation: str) -> None:
    inputs = random_inputs(HEIGHT, WIDTH, 3)
    inputs = inputs._replace(query=inputs.query * 1e4, key_table=inputs.key_table * 1e4)
    leaves = inputs.to(torch.float32).leaves()
    outputs = local_attention(*leaves, span=3, implementation=implementation)
    gradients = torch.autograd.grad(sum(output.sum() for output in outputs), leaves)
    assert all(tensor.isfinite().all() for tensor in (*outputs, *gradients))


def test_empty_batch(implementation: str) -> None:
    leaves = random_inputs(HEIGHT, WIDTH, 3, images=0).leaves()
    outputs = local_attention(*leaves, span=3, implementation=implementation)
    for output in outputs:
        assert output.shape == (0, 2, HEIGHT, WIDTH, 3)
    gradients = torch.autograd.grad(sum(output.sum() for output in outputs), leaves)
    assert not any(gradient.count_nonzero() for gradient in gradients)
    mean, variance, count = _moments(leaves, 3, implementation)
    assert (mean.tolist(), variance.tolist(), count) == ([[0.0] * 2] * 3, [[0.0] * 2] * 3, 0)


def test_meta_device_gives_shapes(implementation: str) -> None:
    inputs = Inputs(*(tensor.to("meta") for tensor in random_inputs(HEIGHT, WIDTH, 3))).leaves()
    if implementation == "cpp":
        with pytest.raises(ValueError, match="it needs the CPU, and the tensors are on meta"):
            local_attention(*inputs, span=3, implementation=implementation)
        return
    outputs = local_attention(*inputs, span=3, implementation=implementation)
    assert [output.shape for output in outputs] == [inputs.value.shape] * 2
    gradients = torch.autograd.grad(sum(output.sum() for output in outputs), inputs)
    assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in inputs]
    if implementation != "reference":
        assert _moments(inputs, 3, implementation)[0].shape == (3, 2)
