"""The fused kernels against the definition; run by ``test_triton_kernels.py``.

Not collected by name: Triton decides when it is imported whether it interprets, so these need a
process of their own. By hand: ``TRITON_INTERPRET=1 pytest tests/ops/fused_kernels.py``, or without
the variable where there is a GPU.

The interpreter takes its time for each operation, whatever its size: tiles are as large as the
axis, and the GPU's have cases of their own.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from axial_d2.ops import axial_attention
from axial_d2.ops.axial_attention import (
    reference,
    triton_gradients,
    triton_launch,
    triton_operators,
)
from axial_d2.ops.axial_attention.triton_blocks import Blocks, default_blocks
from axial_d2.ops.triton_support import INTERPRETED
from naive_attention import random_inputs
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
NAMES = ("query", "key", "value", "query_table", "key_table", "value_table", "logit_scale")


class Problem(NamedTuple):
    """Leaves by name, None where a term is absent, and how to call the op."""

    tensors: dict[str, Tensor | None]
    span: int = 0
    query_key: bool = True


def problem(
    length: int,
    span: int = 0,
    *,
    channels: tuple[int, int] = (8, 16),
    rows: int = 2,
    heads: int = 2,
    max_span: int | None = None,
    without: tuple[str, ...] = (),
) -> Problem:
    inputs = random_inputs(
        length,
        rows=rows,
        heads=heads,
        key_channels=channels[0],
        value_channels=channels[1],
        max_span=length + 2 if max_span is None else max_span,
    )
    scale = (torch.rand(3, heads, dtype=torch.float64) + 0.5) * channels[0] ** -0.5
    tensors = dict(zip(NAMES, (*inputs, scale), strict=True))
    kept = {name: None if name in without else tensor for name, tensor in tensors.items()}
    return Problem(kept, span, "query_key" not in without)


def leaves_of(case: Problem, dtype: torch.dtype, only: tuple[str, ...] = NAMES) -> list:
    return [
        None if tensor is None else tensor.to(DEVICE, dtype).requires_grad_(name in only)
        for name, tensor in case.tensors.items()
    ]


def run(
    attention: Callable, case: Problem, dtype: torch.dtype, only: tuple[str, ...] = NAMES
) -> dict[str, Tensor]:
    """Results and gradients by name, for cotangents that are the same in every call."""
    leaves = leaves_of(case, dtype, only)
    results = attention(*leaves, span=case.span, query_key=case.query_key)
    found = {
        name: result
        for name, result in zip(("content", "position"), results, strict=True)
        if result is not None
    }
    generator = torch.Generator().manual_seed(1)
    cotangents = [
        torch.randn(result.shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
        for result in found.values()
    ]
    wanted = [(name, leaf) for name, leaf in zip(NAMES, leaves, strict=True) if leaf is not None]
    wanted = [(name, leaf) for name, leaf in wanted if leaf.requires_grad]
    gradients = torch.autograd.grad(
        list(found.values()), [leaf for _, leaf in wanted], cotangents, allow_unused=True
    )
    named = zip((f"gradient of {name}" for name, _ in wanted), gradients, strict=True)
    return {
        name: tensor.detach() for name, tensor in (*found.items(), *named) if tensor is not None
    }


def fused(*leaves: Tensor | None, **options: object) -> tuple[Tensor | None, Tensor | None]:
    return axial_attention(*leaves, implementation="triton", **options)  # type: ignore[arg-type]


def assert_agree(
    case: Problem, dtype: torch.dtype = torch.float32, tolerance: float = 1e-4
) -> None:
    """All results and gradients, relative to the largest entry of each (1 where all vanish)."""
    got, want = run(fused, case, dtype), run(reference.axial_attention, case, torch.float64)
    assert want.keys() <= got.keys()
    for name, tensor in got.items():
        exact = want.get(name, torch.zeros_like(tensor, dtype=torch.float64))
        error = (tensor - exact).abs().max() / max(exact.abs().max(), torch.ones(()).to(DEVICE))
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.fixture(autouse=True)
def few_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:
        monkeypatch.setattr(triton_gradients, "LINES", 1024)
        monkeypatch.setattr(triton_gradients, "TABLE_ROWS", 256)
        use_tiles(monkeypatch, 64)


def use_tiles(monkeypatch: pytest.MonkeyPatch, queries: int, keys: int | None = None) -> None:
    """Tiles of at most these sizes under interpretation; a GPU keeps its own."""

    def blocks(key_channels: int, value_channels: int, half: bool, _: int) -> Blocks:
        sizes = {"queries": queries, "keys": keys or queries}
        return dataclasses.replace(default_blocks(key_channels, value_channels, half), **sizes)

    if INTERPRETED:
        monkeypatch.setattr(triton_launch, "default_blocks", blocks)


def tiles_for(length: int) -> int:
    return 16 if length <= 17 else 32 if length <= 40 else 64


@pytest.mark.parametrize(
    ("length", "span", "max_span"),
    [
        (1, 0, 2), (2, 0, 2), (7, 0, 7), (17, 0, 5), (65, 0, 40), (257, 0, 260),
        (1, 3, 1), (7, 3, 8), (17, 3, 2), (65, 65, 65), (130, 65, 20), (257, 65, 257),
    ],
)  # fmt: skip
def test_equals_the_reference(
    monkeypatch: pytest.MonkeyPatch, length: int, span: int, max_span: int
) -> None:
    use_tiles(monkeypatch, tiles_for(length))
    few = {"rows": 1, "heads": 1} if length > 100 else {}
    assert_agree(problem(length, span, max_span=max_span, **few))


@pytest.mark.parametrize(("length", "span"), [(33, 0), (40, 21)])
def test_tiles_of_the_gpu(monkeypatch: pytest.MonkeyPatch, length: int, span: int) -> None:
    use_tiles(monkeypatch, 16)
    assert_agree(problem(length, span, max_span=30))


@pytest.mark.parametrize(("rows", "heads"), [(7, 3), (5, 7)])
def test_rows_and_heads_that_fill_no_block(
    monkeypatch: pytest.MonkeyPatch, rows: int, heads: int
) -> None:
    """21 and 35 groups in blocks of 16, heads beginning anywhere in a block."""
    use_tiles(monkeypatch, 16)
    assert_agree(problem(9, rows=rows, heads=heads))


@pytest.mark.parametrize(("queries", "keys"), [(16, 32), (32, 16)])
def test_unequal_blocks(monkeypatch: pytest.MonkeyPatch, queries: int, keys: int) -> None:
    use_tiles(monkeypatch, queries, keys)
    assert_agree(problem(37, 15))


@pytest.mark.parametrize(
    "channels", [(4, 8), (4, 4), (16, 32), (32, 16), (128, 4), (8, 128), (5, 3), (40, 72)]
)
def test_channels(monkeypatch: pytest.MonkeyPatch, channels: tuple[int, int]) -> None:
    """Padded ones, and chunks: as many for keys as for values, more, and fewer."""
    use_tiles(monkeypatch, 16)
    assert_agree(problem(9, channels=channels))


@pytest.mark.parametrize(
    "without",
    [
        ("query_key",),
        ("query_table",),
        ("key_table",),
        ("value",),
        ("value_table",),
        ("query_table", "key_table", "value_table"),
        ("query_key", "query_table", "value"),
        ("query_key", "key_table", "logit_scale"),
        ("logit_scale",),
    ],
)
def test_missing_terms(without: tuple[str, ...]) -> None:
    case = problem(9, 7, without=without)
    results = fused(*leaves_of(case, torch.float32), span=7, query_key=case.query_key)
    for result, source in zip(results, ("value", "value_table"), strict=True):
        assert (result is None) == (source in without)
    assert_agree(case)


@pytest.mark.parametrize("only", [*((name,) for name in NAMES), ("query", "value_table")])
def test_gradients_of_some(only: tuple[str, ...]) -> None:
    case = problem(9)
    some, every = (run(fused, case, torch.float32, names) for names in (only, NAMES))
    assert some.keys() == {"content", "position", *(f"gradient of {name}" for name in only)}
    for name, tensor in some.items():
        assert torch.equal(tensor, every[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Factors are rounded to the type; sums and the softmax are not."""
    case = problem(33, 15, channels=(8, 16))
    rounded = {
        name: tensor if tensor is None else tensor.to(dtype).double()
        for name, tensor in case.tensors.items()
    }
    case = case._replace(tensors=rounded)
    results = fused(*leaves_of(case, dtype), span=case.span)
    assert all(result is not None and result.dtype == dtype for result in results)
    assert_agree(case, dtype, 8 * torch.finfo(dtype).eps)


def test_half_precision_features_with_float32_tables() -> None:
    """As under autocast: the parameters stay in float32, and so do their gradients."""
    case = problem(9)
    leaves = leaves_of(case, torch.float32)
    halves = [leaf.bfloat16() for leaf in leaves[:3]]
    content, position = fused(*halves, *leaves[3:])
    assert content is not None
    assert position is not None
    assert content.dtype == position.dtype == torch.bfloat16
    gradients = torch.autograd.grad((content + position).float().square().sum(), leaves[3:])
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_tf32_where_pytorch_multiplies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    query = torch.zeros(1, 1, 1, 1)
    arguments = (query, query, query, None, None, None, None, 0, True)
    assert triton_operators._inputs(*arguments).arithmetic == "float32"
    monkeypatch.setattr(triton_operators, "_allows_tf32", lambda: True)
    assert triton_operators._inputs(*arguments).arithmetic == "tf32"
    half = (query.half(), *arguments[1:])
    assert triton_operators._inputs(*half).arithmetic == "float16"
    assert_agree(problem(9), tolerance=1e-2)


@pytest.mark.parametrize("setting", ["allow_tf32", "fp32_precision"])
def test_both_switches_of_pytorch(setting: str) -> None:
    matmul = torch.backends.cuda.matmul
    before = getattr(matmul, setting)
    assert not triton_operators._allows_tf32()
    try:
        setattr(matmul, setting, True if setting == "allow_tf32" else "tf32")
        assert triton_operators._allows_tf32()
    finally:
        setattr(matmul, setting, before)


def strided(tensor: Tensor, order: tuple[int, ...], extra: int) -> Tensor:
    """The same numbers as a view of a larger tensor whose dimensions lie in another order."""
    memory = torch.full([tensor.shape[i] for i in order[:-1]] + [tensor.shape[3] + extra], 7.0)
    view = memory.to(tensor)[..., extra // 2 :][..., : tensor.shape[3]].permute(
        [order.index(i) for i in range(4)]
    )
    return view.copy_(tensor)


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (2, 0, 1, 3), (0, 1, 2, 3), (1, 2, 0, 3)])
def test_strides_change_nothing(order: tuple[int, ...]) -> None:
    leaves = [leaf.detach() for leaf in leaves_of(problem(9, rows=3), torch.float32)]
    want = fused(*leaves)
    views = [strided(leaf, order, extra) for leaf, extra in zip(leaves[:3], (8, 8, 3), strict=True)]
    for got, expected in zip(fused(*views, *leaves[3:]), want, strict=True):
        assert torch.equal(got, expected)
    apart = [strided(leaves[0], order, 4), *views[1:]]
    for got, expected in zip(fused(*apart, *leaves[3:]), want, strict=True):
        assert torch.equal(got, expected)


def test_memory_of_the_results_is_by_position() -> None:
    """Heads and channels of a position lie together, so a layer joins the heads without a copy."""
    content, position = fused(*leaves_of(problem(9, heads=3), torch.float32))
    for result in (content, position):
        assert result.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("splits", [1, 2, 5])
def test_splits_change_table_gradients_by_rounding_alone(
    monkeypatch: pytest.MonkeyPatch, splits: int
) -> None:
    use_tiles(monkeypatch, 16)
    monkeypatch.setattr(triton_gradients, "TABLE_PROGRAMS", splits)
    assert_agree(problem(9, rows=20, heads=4, channels=(4, 4)))


def test_gradients_are_the_same_in_two_runs() -> None:
    case = problem(40 if INTERPRETED else 257, 21, rows=9 if INTERPRETED else 300)
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

    use_tiles(monkeypatch, 16)
    cases = [
        problem(19, 9, max_span=8),
        problem(5, rows=5, heads=5, channels=(4, 80)),
        problem(9, without=("query_key", "value", "query_table")),
    ]
    clean = [run(fused, case, torch.float32) for case in cases]
    monkeypatch.setattr(torch.Tensor, "new_empty", full_of_nan)
    for case, want in zip(cases, clean, strict=True):
        got = run(fused, case, torch.float32)
        assert len(poisoned) > 5
        for name, tensor in got.items():
            assert torch.equal(tensor, want[name]), name


def saved_numbers(length: int, rows: int) -> Iterator[int]:
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    leaves = leaves_of(problem(length, rows=rows), torch.float32)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        results = fused(*leaves)
    del results
    yield from sizes.values()


def test_memory_kept_is_linear_in_the_length_for_each_row() -> None:
    def a_row(length: int) -> float:
        few, many = (sum(saved_numbers(length, rows)) for rows in (1, 4))
        return (many - few) / 3

    heads, key, value = 2, 8, 16
    assert a_row(20) == 2 * a_row(10)
    # Query, key, value, content, position and the log-sum-exp.
    assert a_row(20) == heads * 20 * (2 * key + 3 * value + 1)


def test_empty_batch() -> None:
    leaves = leaves_of(problem(9, rows=0), torch.float32)
    content, position = fused(*leaves)
    assert content.shape == position.shape == (0, 2, 9, 16)
    gradients = torch.autograd.grad((content + position).sum(), leaves)
    assert all(torch.count_nonzero(gradient) == 0 for gradient in gradients)


def test_large_logits_do_not_overflow() -> None:
    case = problem(9)
    query = case.tensors["query"]
    assert query is not None
    found = run(fused, case._replace(tensors={**case.tensors, "query": query * 1e4}), torch.float32)
    assert all(tensor.isfinite().all() for tensor in found.values())


def test_float64_is_refused() -> None:
    with pytest.raises(ValueError, match=r'"triton" cannot be used: .*not torch\.float64'):
        run(fused, problem(3), torch.float64)


def test_second_derivatives_are_refused() -> None:
    leaves = leaves_of(problem(3), torch.float32)
    content, _ = fused(*leaves)
    (gradient,) = torch.autograd.grad(content.square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.sum(), leaves[0])


class TestCompiled:
    """One graph, the same numbers, and shapes known without running."""

    @pytest.mark.parametrize(("backend", "dynamic"), [("eager", False), ("aot_eager", True)])
    def test_no_graph_break(self, backend: str, dynamic: bool) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(fused_sum, backend=backend, fullgraph=True, dynamic=dynamic)
        for length in (5, 9) if dynamic else (5,):
            leaves = leaves_of(problem(length), torch.float32)
            found, want = (
                torch.autograd.grad(function(*leaves), leaves) for function in (compiled, fused_sum)
            )
            for got, expected in zip(found, want, strict=True):
                assert torch.equal(got, expected)

    @pytest.mark.parametrize("without", [(), ("value", "logit_scale"), ("value_table",)])
    def test_operator_keeps_its_promises(self, without: tuple[str, ...]) -> None:
        case = problem(5, 3, without=without, channels=(4, 4))
        torch.library.opcheck(
            torch.ops.axial_d2.fused_axial_attention.default,
            (*leaves_of(case, torch.float32), case.span, case.query_key),
        )


def fused_sum(*leaves: Tensor | None) -> Tensor:
    # Not through the public function: its guard against autocast is no part of this.
    results = triton_operators.fused_axial_attention(*leaves, 3, True)
    return results[0].sin().sum() + results[1].cos().sum()


def test_every_product_is_large_enough_for_tensor_cores() -> None:
    for size in ("groups", "queries", "keys", "key_chunk", "value_chunk"):
        for bad in (8, 24):
            with pytest.raises(AssertionError, match=size):
                Blocks(**{size: bad})
    sizes = [1, 3, 4, 8, 16, 17, 32, 64, 100, 128]
    for key, value, half in itertools.product(sizes, sizes, (True, False)):
        blocks = default_blocks(key, value, half)
        assert min(blocks.key_chunk, blocks.value_chunk) >= 16
