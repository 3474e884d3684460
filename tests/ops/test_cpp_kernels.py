"""What is particular to the C++ kernels; the other files hold them to the definition."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
from axial_d2.ops import axial_attention, cpp_library, logit_moments
from axial_d2.ops.axial_attention import _chosen
from cpu_implementations import BUILT, ON_CPU, needs_kernels
from naive_attention import random_inputs
from torch import Tensor

INSTRUCTION_SETS = torch.ops.axial_d2_cpu.instruction_sets() if BUILT else []


@pytest.fixture(params=INSTRUCTION_SETS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    torch.ops.axial_d2_cpu.use_instructions(request.param)
    yield request.param
    torch.ops.axial_d2_cpu.use_instructions(INSTRUCTION_SETS[0])


def test_kernels_are_built_where_there_is_a_compiler() -> None:
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler is None or "cpp" in ON_CPU, cpp_library.obstacle()


def everything(
    implementation: str, dtype: torch.dtype, length: int, channels: tuple[int, int], span: int
) -> list[Tensor]:
    """Outputs and gradients of the attention and of its moments."""
    torch.manual_seed(length)
    inputs = random_inputs(
        length, rows=5, heads=3, key_channels=channels[0], value_channels=channels[1], max_span=20
    )
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (*inputs, torch.rand(3, 3))]
    outputs = axial_attention(*leaves, span=span, implementation=implementation)
    upstream = [torch.linspace(-1, 1, each.numel(), dtype=dtype).view_as(each) for each in outputs]
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    features = [leaves[index] for index in (0, 1, 3, 4)]
    moments = logit_moments(*features, span, implementation)
    of_moments = torch.autograd.grad(
        [moments.mean.sin().sum(), moments.variance.sqrt().sum()], features
    )
    return [*outputs, *gradients, moments.mean, moments.variance, *of_moments]


# Lengths and channels around the kernels' tiles of 4 and 8, and the known channels' own code.
SIZES = [
    (length, channels, span)
    for length, span in [(1, 0), (4, 3), (9, 0), (33, 5), (70, 65), (130, 65), (130, 0)]
    for channels in [(4, 8), (3, 5)]
] + [(15, (8, 16), 0), (15, (16, 32), 7), (6, (32, 64), 0), (6, (1, 9), 3)]


@needs_kernels
@pytest.mark.parametrize(("length", "channels", "span"), SIZES)
def test_every_instruction_set_computes_the_same(
    instructions: str, length: int, channels: tuple[int, int], span: int
) -> None:
    want = everything("reference", torch.float64, length, channels, span)
    exact = everything("cpp", torch.float64, length, channels, span)
    for got, expected in zip(exact, want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    single = everything("cpp", torch.float32, length, channels, span)
    for got, expected in zip(single, want, strict=True):
        scale = expected.abs().max().clamp(min=1e-3)
        assert float((got.double() - expected).abs().max() / scale) < 1e-4


@needs_kernels
def test_an_image_s_columns_are_read_where_they_lie() -> None:
    """[B, lines, N, L, C] as views of channels-last maps; results lie like the value."""
    image = torch.randn(2, 7, 6, 3 * (4 + 4 + 8))  # [B, H, W, C]
    columns = image.permute(0, 2, 1, 3)  # [B, W, H, C]
    query, key, value = (
        part.unflatten(3, (3, -1)).transpose(2, 3) for part in columns.split([12, 12, 24], dim=3)
    )
    tables = [torch.randn(13, channels) for channels in (4, 4, 8)]
    outputs = axial_attention(query, key, value, *tables, implementation="cpp")
    copies = [part.flatten(0, 1).contiguous() for part in (query, key, value)]
    want = axial_attention(*copies, *tables, implementation="reference")
    for got, expected in zip(outputs, want, strict=True):
        assert got is not None
        assert expected is not None
        torch.testing.assert_close(got.flatten(0, 1), expected)
        assert got.transpose(2, 3).flatten(3).permute(0, 2, 1, 3).is_contiguous()


@needs_kernels
def test_no_number_depends_on_the_run_or_leaks_from_idle_lanes() -> None:
    """Memory that the kernels do not write would differ from run to run."""
    first = everything("cpp", torch.float32, 33, (4, 8), 5)
    torch.full((1 << 22,), float("nan"))  # what freed memory may hold
    for got, want in zip(everything("cpp", torch.float32, 33, (4, 8), 5), first, strict=True):
        assert torch.equal(got, want)


@needs_kernels
def test_threads_change_nothing_but_rounding() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything("cpp", torch.float64, 33, (4, 8), 5)
        torch.set_num_threads(3)
        together = everything("cpp", torch.float64, 33, (4, 8), 5)
    finally:
        torch.set_num_threads(threads)
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@needs_kernels
@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(fault: float) -> None:
    query, *others = random_inputs(9, dtype=torch.float32)
    query[0, 0, 3, 0] = fault
    content, _ = axial_attention(query, *others, implementation="cpp")
    assert content is not None
    assert content[0, 0, 3].isnan().all()
    assert content[0, 0, 4].isfinite().all()


@needs_kernels
def test_large_logits_do_not_overflow() -> None:
    inputs = [100 * tensor for tensor in random_inputs(40, dtype=torch.float32)]
    got = axial_attention(*inputs, implementation="cpp")
    want = axial_attention(*(tensor.double() for tensor in inputs), implementation="reference")
    for each, expected in zip(got, want, strict=True):
        assert each is not None
        torch.testing.assert_close(each.double(), expected, rtol=1e-3, atol=1e-2)


@needs_kernels
@pytest.mark.parametrize("name", ["forward", "moments"])
def test_operators_describe_themselves_to_pytorch(name: str) -> None:
    """Shapes, strides and gradients as ``torch.compile`` and ``torch.export`` need them."""
    query, key, value = (
        torch.randn(2, 5, 3, 6, channels).transpose(2, 3).contiguous().transpose(2, 3)
        for channels in (4, 4, 8)
    )
    windows = [torch.randn(11, channels) for channels in (4, 4, 8)]
    if name == "forward":
        arguments = [query, key, value, *windows, torch.rand(3, 3)]
        options: list = [None, 5, True]
    else:
        arguments, options = [query, key, *windows[:2]], [5]
    leaves = [tensor.requires_grad_() for tensor in arguments]
    operator = getattr(torch.ops.axial_d2_cpu, name).default
    torch.library.opcheck(operator, (*leaves, *options))


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("learns", [False, True])
def test_position_scale_gives_the_sum(implementation: str, learns: bool) -> None:
    inputs = random_inputs(9)
    scale = torch.randn(2, inputs.value.shape[-1], dtype=torch.float64, requires_grad=learns)
    content, position = axial_attention(*inputs, span=5, implementation="reference")
    assert content is not None
    assert position is not None
    want = content + position * scale[:, None]
    got, nothing = axial_attention(
        *inputs, span=5, implementation=implementation, position_scale=scale
    )
    assert nothing is None
    torch.testing.assert_close(got, want)
    if learns:
        assert got is not None
        (gradient,) = torch.autograd.grad(got.sin().sum(), scale)
        (expected,) = torch.autograd.grad(want.sin().sum(), scale)
        torch.testing.assert_close(gradient, expected)


@needs_kernels
def test_auto_is_cpp_on_a_cpu() -> None:
    assert _chosen("auto", [torch.zeros(1, 1, 3, 4)] * 3) == "cpp"


def test_auto_is_blocked_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_library, "obstacle", lambda: "none are built")
    assert _chosen("auto", [torch.zeros(1, 1, 3, 4)] * 3) == "blocked"
    with pytest.raises(ValueError, match=r'"cpp" cannot be used: none are built.*"blocked"'):
        axial_attention(*random_inputs(3), implementation="cpp")


def test_kernels_of_another_pytorch_are_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(cpp_library, "FOLDER", tmp_path)
    find = cpp_library.find_obstacle
    assert "built no kernels" in find()
    (tmp_path / f"{cpp_library.module_name('1.13.0+cpu')}.so").touch()
    assert "built for PyTorch 1_13_0_cpu, and this is" in find()
    (tmp_path / f"{cpp_library.module_name(torch.__version__)}.so").touch()
    assert find() is None


@pytest.mark.parametrize("device", ["meta"])
def test_other_devices_are_refused(device: str) -> None:
    inputs = [tensor.to(device) for tensor in random_inputs(3)]
    with pytest.raises(ValueError, match="it needs the CPU, and the tensors are on meta"):
        axial_attention(*inputs, implementation="cpp")
