"""The fused kernels of 2-D local attention against the definition.

As ``fused_kernels.py``, which says how to run it: ``test_triton_kernels.py`` does.
"""

from __future__ import annotations

import pytest
import torch
from axial_d2.layers import LocalAttention, PositionSensitiveLocalAttention
from axial_d2.ops import local_attention
from axial_d2.ops.local_attention import reference, triton_launch
from axial_d2.ops.triton_support import INTERPRETED
from fused_kernels import DEVICE, NAMES, Problem, leaves_of, run
from naive_local_attention import random_inputs
from torch import Tensor, nn


def problem(
    height: int,
    width: int,
    span: int = 3,
    *,
    channels: tuple[int, int] = (4, 8),
    images: int = 2,
    heads: int = 2,
    without: tuple[str, ...] = (),
) -> Problem:
    sizes = {"images": images, "heads": heads}
    sizes |= {"key_channels": channels[0], "value_channels": channels[1]}
    inputs = random_inputs(height, width, span, **sizes)
    scale = (torch.rand(3, heads, dtype=torch.float64) + 0.5) * channels[0] ** -0.5
    tensors = dict(zip(NAMES, (*inputs, scale), strict=True))
    kept = {name: None if name in without else tensor for name, tensor in tensors.items()}
    return Problem(kept, span, "query_key" not in without)


def fused(*leaves: Tensor | None, **options: object) -> tuple[Tensor | None, Tensor | None]:
    return local_attention(*leaves, implementation="triton", **options)  # type: ignore[arg-type]


def relative_error(got: Tensor, want: Tensor) -> float:
    """Of the largest entry, or of 1 where all vanish."""
    return ((got - want).abs().max() / want.abs().max().clamp(min=1)).item()


def assert_agree(
    case: Problem, dtype: torch.dtype = torch.float32, tolerance: float = 1e-4
) -> None:
    got, want = run(fused, case, dtype), run(reference.local_attention, case, torch.float64)
    assert want.keys() <= got.keys()
    for name, tensor in got.items():
        exact = want.get(name, torch.zeros_like(tensor, dtype=torch.float64))
        assert relative_error(tensor, exact) < tolerance, name


@pytest.fixture(autouse=True)
def one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes its time for each operation, whatever its size."""
    if INTERPRETED:
        monkeypatch.setattr(triton_launch, "TILE_NUMBERS", 1 << 20)
        monkeypatch.setattr(triton_launch, "LARGEST_TILE", 256)


@pytest.fixture
def tiles_of_the_gpu(monkeypatch: pytest.MonkeyPatch, one_tile: None) -> None:
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("height", "width", "span"),
    [(1, 1, 3), (2, 3, 7), (7, 6, 5), (9, 5, 3), (1, 12, 3), (13, 1, 3), (3, 3, 1)],
)
def test_equals_the_reference(height: int, width: int, span: int) -> None:
    assert_agree(problem(height, width, span))


@pytest.mark.usefixtures("tiles_of_the_gpu")
@pytest.mark.parametrize("channels", [(4, 8), (8, 4), (4, 4), (16, 16), (5, 3), (128, 4), (8, 128)])
def test_channels_in_tiles_of_the_gpu(channels: tuple[int, int]) -> None:
    """Padded ones, and tiles of 8 to 128 queries that end anywhere in an image."""
    assert_agree(problem(2, 4, channels=channels, heads=3, images=1))


@pytest.mark.usefixtures("tiles_of_the_gpu")
@pytest.mark.parametrize("programs", [1, 18])
def test_splits_change_table_gradients_by_rounding_alone(
    monkeypatch: pytest.MonkeyPatch, programs: int
) -> None:
    """Three tiles of 16 queries, all of them in one part, or dealt to two."""
    monkeypatch.setattr(triton_launch, "LARGEST_TILE", 16)
    monkeypatch.setattr(triton_launch, "TABLE_PROGRAMS", programs)
    assert_agree(problem(3, 4))


SELF_ATTENTION = ("key_table", "value_table", "logit_scale")


@pytest.mark.parametrize(
    "without",
    [
        SELF_ATTENTION,
        ("query_key", *SELF_ATTENTION),
        ("query_table", *SELF_ATTENTION),
        ("query_key",),
        ("query_table",),
        ("key_table",),
        ("value",),
        ("value_table",),
        ("query_key", "query_table", "value"),
        ("query_key", "key_table", "logit_scale"),
    ],
)
def test_missing_terms(without: tuple[str, ...]) -> None:
    case = problem(4, 5, without=without)
    results = fused(*leaves_of(case, torch.float32), span=3, query_key=case.query_key)
    for result, source in zip(results, ("value", "value_table"), strict=True):
        assert (result is None) == (source in without)
    assert_agree(case)


@pytest.mark.parametrize(
    "only", [("query",), ("value",), ("logit_scale",), ("key_table",), ("key", "value_table")]
)
def test_gradients_of_some(only: tuple[str, ...]) -> None:
    case = problem(3, 4)
    some, every = (run(fused, case, torch.float32, names) for names in (only, NAMES))
    assert some.keys() == {"content", "position", *(f"gradient of {name}" for name in only)}
    for name, tensor in some.items():
        assert torch.equal(tensor, every[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_at_the_end_alone(dtype: torch.dtype) -> None:
    case = problem(5, 6)
    rounded = {
        name: tensor if tensor is None else tensor.to(dtype).double()
        for name, tensor in case.tensors.items()
    }
    case = case._replace(tensors=rounded)
    results = fused(*leaves_of(case, dtype), span=case.span)
    assert all(result is not None and result.dtype == dtype for result in results)
    # The gradients start from retrieved features that are rounded already.
    assert_agree(case, dtype, 2 * torch.finfo(dtype).eps)


def test_half_precision_features_with_float32_tables() -> None:
    """As under autocast: the parameters stay in float32, and so do their gradients."""
    leaves = leaves_of(problem(3, 4), torch.float32)
    content, position = fused(*(leaf.bfloat16() for leaf in leaves[:3]), *leaves[3:], span=3)
    assert content is not None
    assert position is not None
    assert content.dtype == position.dtype == torch.bfloat16
    gradients = torch.autograd.grad((content + position).float().square().sum(), leaves[3:])
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


@pytest.mark.parametrize(("channels_last", "heads"), [(True, 3), (False, 3), (False, 1)])
def test_strides_change_nothing(channels_last: bool, heads: int) -> None:
    """Features as a convolution's output holds them, query, key and value side by side."""
    case = problem(4, 5, heads=heads)
    leaves = leaves_of(case, torch.float32)
    flat = [leaf.permute(0, 1, 4, 2, 3).flatten(1, 2) for leaf in leaves[:3]]
    memory = torch.channels_last if channels_last else torch.contiguous_format
    projected = torch.cat(flat, 1).contiguous(memory_format=memory)
    parts = projected.split([part.shape[1] for part in flat], dim=1)
    views = [part.unflatten(1, (heads, -1)).permute(0, 1, 3, 4, 2) for part in parts]
    copied = [triton_launch._addressable(view) is not view for view in views]
    assert copied == [not channels_last] * 3
    want = fused(*(leaf.contiguous() for leaf in leaves[:3]), *leaves[3:], span=3)
    for got, expected in zip(fused(*views, *leaves[3:], span=3), want, strict=True):
        assert torch.equal(got, expected)
    rows = [leaf.transpose(2, 3).contiguous().transpose(2, 3) for leaf in leaves[:2]]
    mixed = fused(*rows, views[2], *(table.mT.contiguous().mT for table in leaves[3:]), span=3)
    for got, expected in zip(mixed, want, strict=True):
        assert torch.equal(got, expected)


def test_strides_of_upstream_gradients_change_nothing() -> None:
    leaves = leaves_of(problem(4, 5), torch.float32)
    upstream = torch.randn(2, 2, 4, 5, 8, device=DEVICE)
    found = []
    for part in (upstream, upstream.permute(4, 1, 0, 3, 2).contiguous().permute(2, 1, 4, 3, 0)):
        content, position = fused(*leaves, span=3)
        found.append(torch.autograd.grad([content, position], leaves, [part, part]))
    for got, expected in zip(*found, strict=True):
        assert torch.equal(got, expected)


def test_memory_of_the_results_is_by_position() -> None:
    """Heads and channels of a position lie together, so a layer joins the heads without a copy."""
    for result in fused(*leaves_of(problem(3, 4, heads=3), torch.float32), span=3):
        assert result is not None
        assert result.movedim(1, -2).is_contiguous()


def test_gradients_are_the_same_in_two_runs() -> None:
    case = problem(9, 7) if INTERPRETED else problem(56, 57, 7, images=8, heads=8)
    first, second = (run(fused, case, torch.float32) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_everything_allocated_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lay in memory before leaves no trace."""
    empty = torch.Tensor.new_empty
    poisoned = []

    def full_of_nan(self: Tensor, *size: object, **options: object) -> Tensor:
        poisoned.append(size)
        return empty(self, *size, **options).fill_(float("nan"))  # type: ignore[call-overload]

    cases = [problem(3, 4), problem(2, 5, without=("query_key", "value", "query_table"))]
    clean = [run(fused, case, torch.float32) for case in cases]
    monkeypatch.setattr(torch.Tensor, "new_empty", full_of_nan)
    for case, want in zip(cases, clean, strict=True):
        got = run(fused, case, torch.float32)
        assert len(poisoned) > 5
        for name, tensor in got.items():
            assert torch.equal(tensor, want[name]), name


def test_empty_batch() -> None:
    leaves = leaves_of(problem(3, 4, images=0), torch.float32)
    content, position = fused(*leaves, span=3)
    assert content.shape == position.shape == (0, 2, 3, 4, 8)
    gradients = torch.autograd.grad((content + position).sum(), leaves)
    assert all(torch.count_nonzero(gradient) == 0 for gradient in gradients)


def test_large_logits_do_not_overflow() -> None:
    case = problem(3, 4)
    query = case.tensors["query"]
    assert query is not None
    found = run(fused, case._replace(tensors={**case.tensors, "query": query * 1e4}), torch.float32)
    assert all(tensor.isfinite().all() for tensor in found.values())


def test_float64_is_refused() -> None:
    with pytest.raises(ValueError, match=r'"triton" cannot be used: .*not torch\.float64'):
        run(fused, problem(3, 3), torch.float64)


def test_more_queries_than_32_bits_count_are_refused() -> None:
    features = torch.zeros(1, 1, 1, 1, 4, device=DEVICE).expand(2, 2**14, 2**8, 2**8, 4)
    with pytest.raises(ValueError, match=r"at most 2147482624 queries.*smaller batches"):
        fused(features, features, features)


def test_second_derivatives_are_refused() -> None:
    leaves = leaves_of(problem(2, 3), torch.float32)
    content, _ = fused(*leaves, span=3)
    (gradient,) = torch.autograd.grad(content.square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.sum(), leaves[0])


@pytest.mark.parametrize("layer", [LocalAttention, PositionSensitiveLocalAttention])
def test_layers(layer: type[nn.Module]) -> None:
    """In training, with the norms' scales from the moments of the logits."""

    def results(implementation: str) -> list[Tensor]:
        torch.manual_seed(0)
        sizes = (8, 8) if layer is LocalAttention else (8, 8, 16)
        module = layer(*sizes, num_heads=2, span=3, implementation=implementation).to(DEVICE)
        inputs = torch.randn(2, 8, 4, 5, device=DEVICE, requires_grad=True)
        output = module(inputs)
        leaves = [inputs, *module.parameters()]
        gradients = torch.autograd.grad(output.sin().sum(), leaves, allow_unused=True)
        return [output, *(each for each in gradients if each is not None)]

    for got, want in zip(results("triton"), results("reference"), strict=True):
        assert relative_error(got, want) < 1e-4


class TestCompiled:
    """One graph, the same numbers, and shapes known without running."""

    def test_no_graph_break(self) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(fused_sum, backend="aot_eager", fullgraph=True, dynamic=True)
        for width in (3, 4):
            leaves = leaves_of(problem(2, width), torch.float32)
            found, want = (
                torch.autograd.grad(function(*leaves), leaves) for function in (compiled, fused_sum)
            )
            for got, expected in zip(found, want, strict=True):
                assert torch.equal(got, expected)

    @pytest.mark.parametrize("without", [(), SELF_ATTENTION])
    def test_operator_keeps_its_promises(self, without: tuple[str, ...]) -> None:
        case = problem(2, 3, without=without)
        torch.library.opcheck(
            torch.ops.axial_d2.fused_local_attention.default,
            (*leaves_of(case, torch.float32), case.span, case.query_key),
        )


def fused_sum(*leaves: Tensor | None) -> Tensor:
    # Not through the public function: its guard against autocast is no part of this.
    results = triton_launch.fused_local_attention(*leaves, 3, True)
    return results[0].sin().sum() + results[1].cos().sum()
