"""What is counted of any module, and that counting leaves it as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from axial_d2.analysis import ModelCost, analyze, cost_table
from axial_d2.layers import AxialAttention
from axial_d2.ops.axial_attention import IMPLEMENTATIONS
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, parameter_count
from torch import Tensor, nn


class Function(nn.Module):
    """A module that is a function of the image."""

    def __init__(self, function: Callable[[Tensor], object]):
        super().__init__()
        self.function = function

    def forward(self, image: Tensor) -> object:
        return self.function(image)


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(8, 8, 5, padding=2, groups=4),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1),
        nn.Conv2d(6, 4, 3, dilation=2, padding=2),
    )


def test_a_network_of_convolutions_costs_what_fvcore_says() -> None:
    model = convolutions().eval()
    image = torch.rand(1, 3, 20, 31)
    cost = analyze(model, (20, 31))
    assert cost.multiply_adds == FlopCountAnalysis(model, image).total()
    assert cost.activations == ActivationCountAnalysis(model, image).total()
    assert cost.parameters == parameter_count(model)[""]
    assert cost.activation_mebibytes == cost.activations * 4 / 2**20


@pytest.mark.parametrize("same", [True, False])
def test_padding_by_name(same: bool) -> None:
    cost = analyze(nn.Conv2d(3, 4, 3, padding="same" if same else "valid"), (9, 7))
    assert cost.multiply_adds == (9 * 7 if same else 7 * 5) * 3 * 4 * 9


def test_resnet50() -> None:
    cost = analyze(torchvision.models.resnet50(), (224, 224))
    assert cost.multiply_adds / 1e9 == pytest.approx(4.1, abs=0.05)
    assert cost.parameters == 25_557_032
    assert cost.unsupported_operators == {}
    assert cost.uncalled_modules == ()


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda x: x.new_zeros(5, 4) @ x, 3 * 5 * 4 * 6),  # broadcast on the left
        (lambda x: x[0, 0] @ x[0, 0, 0], 4 * 6),
        (lambda x: F.linear(x, x.new_zeros(7, 6), x.new_zeros(7)), 12 * 6 * 7),
        (lambda x: torch.baddbmm(x.new_zeros(1), x[0], x[0].mT), 3 * 4 * 6 * 4),
        (lambda x: torch.einsum("bchw,dc->bdhw", x, x.new_zeros(5, 3)), 24 * 3 * 5),
        # The sum over w stands before the product.
        (lambda x: torch.einsum("bchw,dc->bdh", x, x.new_zeros(5, 3)), 4 * 3 * 5),
        (lambda x: torch.einsum("bchw->bhwc", x), 0),
        (lambda x: F.scaled_dot_product_attention(x, x, x[..., :2]), 3 * 4 * 4 * (6 + 2)),
        (lambda x: F.softmax(F.interpolate(F.avg_pool2d(x, 2), size=(9, 9)), dim=1) * x.sum(), 0),
        (lambda x: F.layer_norm(x, (6,)), 0),
    ],
)
def test_products_without_modules(function: Callable[[Tensor], Tensor], products: int) -> None:
    cost = analyze(Function(function), (4, 6))
    assert cost.multiply_adds == products
    assert cost.unsupported_operators == {}


class Nested(nn.Module):
    """Calls one module twice, one never, and multiplies matrices by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.shared = nn.Conv2d(4, 4, 1, bias=False)
        self.unused = nn.ModuleDict({"linear": nn.Linear(2, 2), "norm": nn.BatchNorm2d(4)})

    def forward(self, image: Tensor) -> dict[str, list[Tensor]]:
        features = self.shared(self.shared(self.encoder(image)))
        return {"products": [features @ features.mT]}


def test_by_module() -> None:
    cost = analyze(Nested(), (5, 6))
    counts = {name: module.multiply_adds for name, module in cost.by_module.items()}
    assert counts["encoder"] == counts["encoder.0"] == 30 * 12
    assert counts["encoder.1"] == 0
    assert counts["shared"] == 2 * 30 * 16
    assert counts[""] == cost.multiply_adds == 30 * 12 + 2 * 30 * 16 + 4 * 5 * 6 * 5
    assert cost.by_module[""].parameters == cost.parameters == 16 + 8 + 16 + 6 + 8
    assert cost.uncalled_modules == ("unused.linear",)


def test_the_parts_of_a_backbone_sum_to_it() -> None:
    cost = analyze(torchvision.models.resnet18(), (64, 64))
    parts = [module for name, module in cost.by_module.items() if name and "." not in name]
    for count in ("parameters", "multiply_adds", "activations"):
        assert sum(getattr(part, count) for part in parts) == getattr(cost, count)


def test_an_operator_that_may_hold_products_is_reported() -> None:
    cost = analyze(Function(lambda x: torch.cdist(x, x)), (4, 6))
    assert cost.unsupported_operators == {"aten::cdist": 1}


def test_a_scripted_function_is_reported_by_its_name() -> None:
    cost = analyze(Function(scripted_square), (4, 4))
    assert cost.unsupported_operators == {"scripted function scripted_square": 1}


@torch.jit.script_if_tracing
def scripted_square(image: Tensor) -> Tensor:
    return image @ image


def test_a_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), AxialAttention(8, 8, 8, "height"))
    model[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = dict(IMPLEMENTATIONS)
    analyze(model, (5, 5))
    assert [module.training for module in model] == [False, True]
    assert model.training
    assert table == IMPLEMENTATIONS
    assert not any(module._forward_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_no_size_needs_memory() -> None:
    side = 2**20
    cost = analyze(convolutions(), (side, side))
    assert cost.activation_mebibytes > 2**25


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (5,), (5, 5, 5)])
def test_a_size_must_be_two_positive_numbers(size: tuple) -> None:
    with pytest.raises(ValueError, match=r"must be \(height, width\), both at least 1"):
        analyze(nn.Identity(), size)


def test_the_table_has_a_row_for_each_module_that_costs_anything() -> None:
    def names(depth: int) -> list[str]:
        return [line.split()[0] for line in cost_table(cost, depth).splitlines()[2:]]

    cost: ModelCost = analyze(Nested(), (5, 6))
    shallow = ["(model)", "encoder", "shared", "unused"]
    assert names(1) == shallow
    assert names(2) == [
        "(model)", "encoder", "encoder.0", "encoder.1", "shared", "unused", "unused.linear",
        "unused.norm",
    ]  # fmt: skip
