"""What is particular to the C++ kernels of local attention; others hold them to the definition."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from axial_d2.ops import cpp_library, local_attention, local_logit_moments
from axial_d2.ops.local_attention import MAX_CPP_SPAN, _chosen
from cpu_implementations import BUILT, needs_kernels
from naive_local_attention import random_inputs
from torch import Tensor

INSTRUCTION_SETS = torch.ops.axial_d2_cpu.instruction_sets() if BUILT else []
PIXELS = (torch.float64, 12, 11, (4, 8), 5)


@pytest.fixture(params=INSTRUCTION_SETS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    torch.ops.axial_d2_cpu.use_instructions(request.param)
    yield request.param
    torch.ops.axial_d2_cpu.use_instructions(INSTRUCTION_SETS[0])


def everything(
    implementation: str,
    dtype: torch.dtype,
    height: int,
    width: int,
    channels: tuple[int, int],
    span: int,
) -> list[Tensor]:
    """Outputs and gradients of the attention and of its moments."""
    torch.manual_seed(height)
    inputs = random_inputs(
        height, width, span, heads=3, key_channels=channels[0], value_channels=channels[1]
    )
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (*inputs, torch.rand(3, 3).double())]
    outputs = local_attention(*leaves, span=span, implementation=implementation)
    upstream = [torch.linspace(-1, 1, each.numel(), dtype=dtype).view_as(each) for each in outputs]
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    features = [leaves[index] for index in (0, 1, 3, 4)]
    moments = local_logit_moments(*features, span, implementation)
    of_moments = torch.autograd.grad(
        [moments.mean.sin().sum(), moments.variance.sqrt().sum()], features
    )
    return [*outputs, *gradients, moments.mean, moments.variance, *of_moments]


# Channels around the kernels' blocks of 4, 2 and 1; images of a tile, of several, and of bands.
SIZES = [
    (height, width, channels, span)
    for height, width, span in [(1, 1, 3), (3, 4, 7), (9, 13, 5), (40, 37, 3), (5, 130, 7)]
    for channels in [(4, 8), (2, 7)]
]


@needs_kernels
@pytest.mark.parametrize(("height", "width", "channels", "span"), SIZES)
def test_every_instruction_set_computes_the_same(
    instructions: str, height: int, width: int, channels: tuple[int, int], span: int
) -> None:
    want = everything("reference", torch.float64, height, width, channels, span)
    exact = everything("cpp", torch.float64, height, width, channels, span)
    for got, expected in zip(exact, want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    single = everything("cpp", torch.float32, height, width, channels, span)
    for got, expected in zip(single, want, strict=True):
        scale = expected.detach().abs().max().clamp(min=1e-3)
        assert float((got.detach().double() - expected.detach()).abs().max() / scale) < 1e-4


@needs_kernels
@pytest.mark.parametrize("height", [140, 350])
def test_bands_change_nothing_but_rounding(height: int) -> None:
    """Images of more rows than a cache holds, the last band shorter than the others."""
    tall = everything("cpp", torch.float64, height, 50, (8, 8), 7)
    want = everything("blocked", torch.float64, height, 50, (8, 8), 7)
    for got, expected in zip(tall, want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@needs_kernels
def test_no_number_depends_on_the_run_or_leaks_from_idle_lanes() -> None:
    """Memory that the kernels do not write would differ from run to run."""
    single = (torch.float32, *PIXELS[1:])
    first = everything("cpp", *single)
    torch.full((1 << 22,), float("nan"))  # what freed memory may hold
    for got, want in zip(everything("cpp", *single), first, strict=True):
        assert torch.equal(got, want)


@needs_kernels
@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_change_nothing_but_rounding(threads: int) -> None:
    """Of 6 groups: fewer threads, and more, which share a group's rows."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything("cpp", *PIXELS)
        torch.set_num_threads(threads)
        together = everything("cpp", *PIXELS)
    finally:
        torch.set_num_threads(before)
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@needs_kernels
@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_where_it_is_seen(fault: float) -> None:
    """A key at the right border lies beside the next row's left border in memory."""
    query, key, value, *tables = (tensor.float() for tensor in random_inputs(7, 9, 5))
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    bad = key.detach().clone()
    bad[0, 0, 3, 8, 0] = fault
    content, _ = local_attention(query, bad, value, *tables, span=5, implementation="cpp")
    assert content is not None
    seen = torch.zeros(7, 9, dtype=torch.bool)
    seen[1:6, 6:] = True
    assert content[0, 0][~seen].isfinite().all()
    if fault != fault:  # of infinite logits one is weighed, or none
        assert content[0, 0][seen].isnan().all()
    (gradient,) = torch.autograd.grad(content[:, :, :, :6].sum(), [leaves[2]])
    reached = torch.zeros(7, 9, dtype=torch.bool)
    reached[:, 4:] = True  # keys that share a query with the fault
    assert gradient[0, 0][~reached].isfinite().all()


@needs_kernels
def test_a_value_that_is_not_finite_does_not_cross_the_border() -> None:
    query, key, value, *tables = (tensor.requires_grad_() for tensor in random_inputs(7, 9, 5))
    bad = value.detach().clone()
    bad[0, 0, 3, 8, 0] = float("nan")
    content, _ = local_attention(query, key, bad, *tables, span=5, implementation="cpp")
    (gradient,) = torch.autograd.grad(content[:, :, :, :6].sum(), [key])
    assert gradient[0, 0, :, :4].isfinite().all()


@needs_kernels
@pytest.mark.parametrize(("images", "heads"), [(0, 2), (2, 0)])
@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_to_attend_to(images: int, heads: int, threads: int) -> None:
    before = torch.get_num_threads()
    features = [torch.randn(images, heads, 5, 6, 4, requires_grad=True) for _ in range(3)]
    table = torch.randn(3, 3, 4, requires_grad=True)
    try:
        torch.set_num_threads(threads)
        content, _ = local_attention(*features, table, span=3, implementation="cpp")
        moments = local_logit_moments(*features[:2], table, None, 3, "cpp")
    finally:
        torch.set_num_threads(before)
    assert content is not None
    assert content.shape == features[0].shape
    assert moments.mean.shape == (3, heads)
    content.sum().backward()
    assert not table.grad.count_nonzero()


@needs_kernels
def test_gradients_have_the_strides_that_compiled_code_expects() -> None:
    query, key, value = (torch.randn(1, 2, 5, 6, 4) for _ in range(3))
    table, scale = torch.randn(4, 9).T, torch.rand(2, 3).T
    options = (query, key, value, table, None, None, scale)
    log_sum = torch.ops.axial_d2_cpu.local_forward(*options, 1, 1, True, True)[2]
    given = (torch.randn_like(value), None, *options, log_sum, 1, 1, True)
    torch.library.opcheck(torch.ops.axial_d2_cpu.local_backward.default, given)


@needs_kernels
def test_pixels_are_read_where_they_lie() -> None:
    """Views of a channels-last projection; results lie like the value."""
    image = torch.randn(2, 7, 6, 3 * (4 + 4 + 8))
    query, key, value = (
        part.unflatten(3, (3, -1)).permute(0, 3, 1, 2, 4)
        for part in image.split([12, 12, 24], dim=3)
    )
    tables = [torch.randn(5, 5, channels) for channels in (4, 4, 8)]
    outputs = local_attention(query, key, value, *tables, span=5, implementation="cpp")
    want = local_attention(query, key, value, *tables, span=5, implementation="reference")
    for got, expected in zip(outputs, want, strict=True):
        assert got is not None
        torch.testing.assert_close(got, expected)
        assert got.permute(0, 2, 3, 1, 4).is_contiguous()


@needs_kernels
@pytest.mark.parametrize("absent", [(), (3,), (2, 4), (5,)])
@pytest.mark.parametrize("name", ["local_forward", "local_moments"])
def test_operators_describe_themselves_to_pytorch(name: str, absent: tuple[int, ...]) -> None:
    """Shapes, strides and gradients as ``torch.compile`` and ``torch.export`` need them."""
    query, key, value = (
        torch.randn(2, 5, 6, 3, channels).permute(0, 3, 1, 2, 4) for channels in (4, 4, 8)
    )
    tables = [torch.randn(9, channels) for channels in (4, 4, 8)]
    given: list = [
        None if index in absent else tensor.requires_grad_()
        for index, tensor in enumerate((query, key, value, *tables))
    ]
    if name == "local_forward":
        if absent == (2, 4):
            given[5] = tables[2].requires_grad_()
        given.append(torch.rand(3, 3).requires_grad_())
    else:
        given = [*given[:2], *given[3:5]]
    operator = getattr(torch.ops.axial_d2_cpu, name).default
    options = (1, 1, True, True) if name == "local_forward" else (1, 1, True)
    torch.library.opcheck(operator, (*given, *options))


@needs_kernels
def test_auto_is_cpp_on_a_cpu() -> None:
    tensors = [torch.zeros(1, 1, 3, 3, 4)] * 3
    assert _chosen("auto", tensors) == _chosen("auto", tensors, MAX_CPP_SPAN) == "cpp"
    assert _chosen("auto", tensors, MAX_CPP_SPAN + 2) == "blocked"


def test_auto_is_blocked_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_library, "obstacle", lambda: "none are built")
    assert _chosen("auto", [torch.zeros(1, 1, 3, 3, 4)] * 3) == "blocked"
    with pytest.raises(ValueError, match=r'"cpp" cannot be used: none are built.*"blocked"'):
        local_attention(*random_inputs(3, 3, 3), span=3, implementation="cpp")
