"""torch.compile takes every backbone as one graph, with the results of plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from axial_d2.backbone import AxialSWideRNet, MaXDeepLabSBackbone
from detectron2.modeling.backbone.resnet import ResNet
from tiny_backbones import assert_equal_maps, let_branches_speak, tiny_backbone
from tiny_deeplab2 import tiny as tiny_deeplab2
from torch import Tensor


def stages(kind: str, **options: Any) -> Callable[[], ResNet]:
    """One block, which strides; tracing more takes seconds."""
    one = {"stem": "inception", "stage_types": (kind,) * 4, "out_features": ("res2",)}
    return lambda: tiny_backbone(**{**one, **options})


def deeplab2(backbone: type[ResNet]) -> Callable[[], ResNet]:
    # The first stages are convolutional.
    return lambda: tiny_deeplab2(backbone, layer_multiplier=0.34, out_features=("res5",))


BACKBONES: dict[str, Callable[[], ResNet]] = {
    "axial": stages("axial"),
    "axial, span 3": stages("axial", span=3),
    "axial, reference": stages("axial", attention_impl="reference"),
    "axial, naiveSyncBN": stages("axial", norm="naiveSyncBN"),
    "axial, checkpointed": stages("axial", checkpoint_stages=("res2",)),
    "attention stem": stages("conv", stem="attention"),
    "conv": stages("conv"),
    "local": stages("local", span=3),
    "local_ps": stages("local_ps", span=3),
    "global": stages("global"),
}
# What is made of the same layers.
MORE_BACKBONES: dict[str, Callable[[], ResNet]] = {
    "axial, FrozenBN": stages("axial", norm="FrozenBN"),
    "axial stem": stages("conv", stem="axial"),
    "local, reference": stages("local", span=3, attention_impl="reference"),
    "max_deeplab_s": deeplab2(MaXDeepLabSBackbone),
    "axial_swidernet": deeplab2(AxialSWideRNet),
}
EVERY_BACKBONE = {**BACKBONES, **MORE_BACKBONES}
each_backbone = pytest.mark.parametrize(
    "name",
    [*BACKBONES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_BACKBONES)],
)


@pytest.fixture(autouse=True)
def _compile_anew() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def two(build: Callable[[], ResNet]) -> tuple[ResNet, ResNet]:
    model, twin = build().double(), build().double()
    let_branches_speak(model)
    twin.load_state_dict(model.state_dict())
    return model, twin


def run(model: Callable[[Tensor], dict], images: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)  # drop path
    return model(images)


@each_backbone
def test_training_step(name: str) -> None:
    model, twin = two(EVERY_BACKBONE[name])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    images = torch.randn(2, 3, 17, 20, dtype=torch.float64)
    got, want = run(compiled, images), run(twin, images)
    assert_equal_maps(got, want, rtol=1e-9, atol=1e-9)
    for maps in (got, want):
        sum(feature.square().mean() for feature in maps.values()).backward()
    close(gradients(model), gradients(twin))
    close(dict(model.named_buffers()), dict(twin.named_buffers()))


@each_backbone
def test_inference(name: str) -> None:
    model, twin = (each.eval() for each in two(EVERY_BACKBONE[name]))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    images = torch.randn(2, 3, 17, 20, dtype=torch.float64)
    with torch.inference_mode():
        assert_equal_maps(compiled(images), twin(images), rtol=1e-9, atol=1e-9)


def gradients(model: ResNet) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def close(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
