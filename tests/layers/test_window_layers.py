"""PositionSensitiveLocalAttention and RelativeWindow as an API: layout, state, sizes, errors."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from attention_layers import randomise_norms
from axial_d2.layers import NORM_CHOICES, AxialAttention, PositionSensitiveLocalAttention
from axial_d2.layers.relative_window import RelativeWindow

IMPLEMENTATIONS = ("reference", "blocked")
NORM_STATE = ("weight", "bias", "running_mean", "running_var")

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def make(implementation: str = "reference", **options: object) -> PositionSensitiveLocalAttention:
    options = {"num_heads": 2, "span": 3, "implementation": implementation, **options}
    layer = PositionSensitiveLocalAttention(5, 4, 8, **options)
    randomise_norms(layer)
    return layer.double()


class TestRelativeWindow:
    def test_first_half_of_the_channels_is_the_row_and_the_second_the_column(self) -> None:
        window = RelativeWindow(3, 4)
        with torch.no_grad():
            window.row_table.copy_(torch.tensor([[-1.0, -10], [0, 0], [1, 10]]))
            window.column_table.copy_(torch.tensor([[-2.0, -20], [0, 0], [2, 20]]))
        table = window()
        assert table.shape == (3, 3, 4)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                assert table[dy + 1, dx + 1].tolist() == [dy, 10 * dy, 2 * dx, 20 * dx]

    def test_keys_are_frozen(self) -> None:
        shapes = {name: tuple(t.shape) for name, t in RelativeWindow(7, 8).state_dict().items()}
        assert shapes == {"row_table": (7, 4), "column_table": (7, 4)}

    def test_a_fresh_query_and_its_embedding_have_a_product_of_unit_variance(self) -> None:
        window = RelativeWindow(101, 64)
        assert abs(window().std().item() * 64**0.5 - 1) < 0.05

    def test_odd_channels_cannot_be_halved(self) -> None:
        with pytest.raises(ValueError, match=r"head of 3 channels .* gives each head an even numb"):
            RelativeWindow(7, 3)


class TestPositionSensitive:
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_state_dict_keys_and_shapes_are_frozen(self, implementation: str) -> None:
        layer = PositionSensitiveLocalAttention(
            32, 16, 32, num_heads=8, span=5, implementation=implementation
        )
        expected = {"qkv.weight": (64, 32, 1, 1)}
        for name, channels in {"query": 1, "key": 1, "value": 2}.items():
            for part in ("row", "column"):
                expected[f"{name}_window.{part}_table"] = (5, channels)
        for norm, channels in {"qkv.norm": 64, "logit_norm": 24, "retrieved_norm": 64}.items():
            expected |= {f"{norm}.{name}": (channels,) for name in NORM_STATE}
            expected[f"{norm}.num_batches_tracked"] = ()
        assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == expected

    def test_defaults_are_the_papers(self) -> None:
        layer = PositionSensitiveLocalAttention(16, 16, 16)
        assert (layer.num_heads, layer.span) == (8, 7)
        assert "span=7" in repr(layer)

    @pytest.mark.parametrize("norm", NORM_CHOICES)
    def test_keys_do_not_depend_on_the_norm(self, norm: str) -> None:
        keys = make(norm=norm).state_dict().keys()
        counters = {name for name in make().state_dict() if name.endswith("_tracked")}
        assert keys | counters == make().state_dict().keys()

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    @pytest.mark.parametrize("axis", ["height", "width"])
    def test_on_a_line_it_is_axial_attention(self, axis: str, training: bool) -> None:
        """An image of one row is an axis; offsets of the other kind are 0."""
        local = make(span=5)
        axial = AxialAttention(5, 4, 8, axis, num_heads=2, span=5, max_span=3).double()
        state = local.state_dict()
        for name in ("query", "key", "value"):
            rows, columns = (state.pop(f"{name}_window.{part}_table") for part in ("row", "column"))
            parts = (
                [rows, columns[2].expand_as(rows)]
                if axis == "height"
                else [rows[2].expand_as(columns), columns]
            )
            state[f"{name}_table"] = torch.cat(parts, dim=1)
        axial.load_state_dict(state)
        x = torch.randn(2, 5, 1, 7, dtype=torch.float64)
        x = x.mT if axis == "height" else x
        close(local.train(training)(x), axial.train(training)(x))

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_transposed_image_with_row_and_column_tables_exchanged(self, training: bool) -> None:
        """Both halves of every head's channels change places with the tables."""
        first, second = make(), make()
        state = first.state_dict()
        exchanged = {
            name: state[
                name.replace("row", "?").replace("column", "row").replace("?", "column")
                if "window" in name
                else name
            ]
            for name in state
        }
        halves = {2: [1, 0], 4: [2, 3, 0, 1]}  # of a head's channels
        keys = torch.tensor(halves[2]).repeat(2) + torch.arange(2).repeat_interleave(2) * 2
        values = torch.tensor(halves[4]).repeat(2) + torch.arange(2).repeat_interleave(4) * 4
        qkv = torch.cat([keys, 4 + keys, 8 + values])
        for name in state:
            if name.startswith("qkv.") and state[name].dim():
                exchanged[name] = state[name][qkv]
            if name.startswith("retrieved_norm.") and state[name].dim():
                exchanged[name] = state[name][torch.cat([values, 8 + values])]
        second.load_state_dict(exchanged)
        x = torch.randn(2, 5, 4, 6, dtype=torch.float64)
        close(second.train(training)(x.mT), first.train(training)(x).mT[:, values])

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_every_parameter_receives_a_gradient(self, implementation: str, training: bool) -> None:
        """DistributedDataParallel waits for each of them."""
        layer = make(implementation).train(training)
        layer(torch.randn(2, 5, 3, 4, dtype=torch.float64)).square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            # A shift of all logits changes no softmax.
            assert bool(parameter.grad.any()) == (name != "logit_norm.bias"), name

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_empty_batch(self, implementation: str, training: bool) -> None:
        layer = make(implementation).train(training)
        before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        assert layer(torch.zeros(0, 5, 3, 4, dtype=torch.float64)).shape == (0, 8, 3, 4)
        for name, buffer in layer.named_buffers():
            if not name.endswith("num_batches_tracked"):
                close(buffer, before[name], rtol=0, atol=0)

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_channels_last_input(self, training: bool) -> None:
        layer = make().train(training)
        x = torch.randn(2, 5, 4, 7, dtype=torch.float64)
        close(layer(x.to(memory_format=torch.channels_last)), layer(x))

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_bf16_autocast_on_the_cpu(self, implementation: str, training: bool) -> None:
        layer = make(implementation).float().train(training)
        x = torch.randn(2, 5, 6, 7)
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

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_heads": 3}, "num_heads 3 does not divide key_channels 4 and value_channels 8"),
            ({"span": 4}, "span 4 is even; for 2-D local attention it must be odd"),
            ({"span": 0}, 'Global 2-D attention is the stage type "global"'),
            ({"norm": "GN"}, "norm 'GN' is not supported; choose one of ('BN', 'SyncBN'"),
            ({"num_heads": 4}, "a head of 1 channels cannot be half row and half column"),
        ],
    )
    def test_constructor_refuses(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            make(**options)

    def test_constructor_refuses_an_unknown_implementation(self) -> None:
        with pytest.raises(ValueError, match=r"'cuda' is unknown; choose one of \('auto', 'refere"):
            make("cuda")
