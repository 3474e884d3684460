"""The layer as an API: state, gradients, initialisation, precision, sizes and errors."""

from __future__ import annotations

import re

import pytest
import torch
from attention_layers import make_layer
from axial_d2.layers import NORM_CHOICES, AxialAttention, build_norm
from cpu_implementations import ON_CPU

NORM_STATE = ("weight", "bias", "running_mean", "running_var")


def test_state_dict_keys_and_shapes_are_frozen() -> None:
    layer = AxialAttention(32, 16, 24, "height", num_heads=8, max_span=5)
    expected = {
        "qkv.weight": (56, 32, 1, 1),
        "query_table": (9, 2),
        "key_table": (9, 2),
        "value_table": (9, 3),
    }
    for norm, channels in {"qkv.norm": 56, "logit_norm": 24, "retrieved_norm": 48}.items():
        expected |= {f"{norm}.{name}": (channels,) for name in NORM_STATE}
        expected[f"{norm}.num_batches_tracked"] = ()
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == expected


@pytest.mark.parametrize("norm", NORM_CHOICES)
def test_keys_do_not_depend_on_the_norm(norm: str) -> None:
    keys = make_layer(norm=norm).state_dict().keys()
    counters = {name for name in make_layer().state_dict() if name.endswith("_tracked")}
    assert keys | counters == make_layer().state_dict().keys()


def test_defaults_are_the_papers() -> None:
    layer = AxialAttention(16, 8, 16, "width")
    assert (layer.num_heads, layer.span, layer.query_table.shape[0]) == (8, 0, 509)
    assert "span=global" in repr(layer)


def test_initial_logit_terms_have_unit_variance() -> None:
    layer = AxialAttention(64, 64, 128, "width")
    for table in (layer.query_table, layer.key_table, layer.value_table):
        assert abs(table.std().item() * table.shape[1] ** 0.5 - 1) < 0.05
    projected = torch.nn.functional.conv2d(torch.randn(4, 64, 8, 8), layer.qkv.weight)
    assert abs(projected.std().item() - 1) < 0.05


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_every_parameter_receives_a_gradient(training: bool, implementation: str) -> None:
    """DistributedDataParallel waits for each of them."""
    layer = make_layer(implementation=implementation).train(training)
    layer(torch.randn(2, 5, 3, 20, dtype=torch.float64)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        # A shift of all logits changes no softmax.
        nonzero = name != "logit_norm.bias"
        assert bool(parameter.grad.any()) == nonzero, name


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 5), (40, 2)])
@pytest.mark.parametrize("axis", ["height", "width"])
def test_any_height_and_width(axis: str, size: tuple[int, int]) -> None:
    layer = make_layer(axis)
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    assert layer(x).shape == (2, 6, *size)
    assert layer.eval()(x[:1]).shape == (1, 6, *size)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("axis", ["height", "width"])
def test_empty_batch(axis: str, training: bool) -> None:
    """As Detectron2's own layers allow; torch's batch norms then keep their statistics."""
    layer = make_layer(axis).train(training)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    assert layer(torch.zeros(0, 5, 3, 4, dtype=torch.float64)).shape == (0, 6, 3, 4)
    for name, buffer in layer.named_buffers():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_channels_last_input(training: bool) -> None:
    layer = make_layer().train(training)
    x = torch.randn(2, 5, 4, 7, dtype=torch.float64)
    got = layer(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("span", [0, 3])
def test_bf16_autocast_on_the_cpu(training: bool, span: int) -> None:
    layer = make_layer(dtype=torch.float32, span=span).train(training)
    x = torch.randn(2, 5, 9, 20)
    single = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    assert (output.float() - single).norm() / single.norm() < 0.05
    output.float().square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name
    for name, buffer in layer.named_buffers():
        assert buffer.isfinite().all(), name


def test_runs_under_no_grad_and_in_inference_mode() -> None:
    layer = make_layer(span=3).eval()
    x = torch.randn(2, 5, 4, 7, dtype=torch.float64)
    with torch.no_grad():
        want = layer(x)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), want, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads 3 does not divide key_channels 4 and value_channels 6"),
        ({"num_heads": 4}, "num_heads 4 does not divide key_channels 4 and value_channels 6"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"span": 64}, "span 64 is even; it must be odd"),
        ({"span": -3}, "span -3 is negative; it must be odd"),
        ({"axis": "depth"}, "axis 'depth' is unknown; choose one of ('height', 'width')"),
        ({"norm": "GN"}, "norm 'GN' is not supported; choose one of ('BN', 'SyncBN'"),
        ({"norm": ""}, "norm '' is not supported; choose one of ('BN', 'SyncBN'"),
        ({"max_span": 0}, "max_span 0 is too small; it must be at least 1"),
        ({"implementation": "cuda"}, "'cuda' is unknown; choose one of ('auto', 'reference'"),
    ],
)
def test_constructor_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_layer(**options)


def test_build_norm_refuses_what_attention_cannot_use() -> None:
    with pytest.raises(ValueError, match="norm 'LN' is not supported"):
        build_norm("LN", 4)
