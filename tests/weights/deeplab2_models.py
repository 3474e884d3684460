"""Converted models of every layout beside their NumPy counterparts, each built once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from axial_d2.engine.setup import load_config
from axial_d2.meta_arch import AxialDeepLab
from axial_d2.weights.core import Report, apply_rules, shapes_of
from axial_d2.weights.deeplab2 import DeepLab2Format
from deeplab2_checkpoints import Arrays, imagenet_checkpoint, panoptic_checkpoint
from detectron2.modeling import build_model
from numpy_deeplab2 import calibrated
from torch import Tensor, nn

CONFIGS = Path(__file__).parents[2] / "configs" / "cityscapes" / "deeplab2"
ON_GRID = (65, 97)
TOLERANCE = {"res5": 1e-4, "semantic": 1e-3, "center": 1e-3, "offset": 1e-3}
OUTPUTS = ("semantic", "center", "offset")


@dataclass(frozen=True)
class Layout:
    """A model at a reduced width: its config, that config's backbone node, and multipliers."""

    name: str
    config: str
    node: str
    width: float
    stem_width: float
    options: tuple[Any, ...] = field(default=())
    imagenet: bool = False

    @property
    def output_stride(self) -> int:
        return 32 if self.imagenet else 16

    def keys(self) -> list[Any]:
        node = f"MODEL.{self.node}"
        return [
            "MODEL.DEVICE", "cpu",
            f"{node}.WIDTH_MULTIPLIER", self.width,
            f"{node}.STEM_WIDTH_MULTIPLIER", self.stem_width,
            f"{node}.OUTPUT_STRIDE", self.output_stride,
            f"{node}.SPAN", 0,
            *self.options,
        ]  # fmt: skip


# The first block of res2 has no shortcut convolution in axial_deeplab at these widths, and one in
# axial_resnet.
LAYOUTS = {
    "axial_deeplab": Layout("axial_deeplab", "axial_deeplab_s", "AXIAL_RESNET", 0.25, 0.5),
    "axial_swidernet": Layout(
        "axial_swidernet", "axial_swidernet_x1", "AXIAL_SWIDERNET", 0.125, 0.25
    ),
    "max_deeplab_s": Layout("max_deeplab_s", "max_deeplab_s_backbone", "MAX_DEEPLAB_S", 0.25, 0.25),
    "axial_resnet": Layout(
        "axial_resnet",
        "axial_deeplab_s",
        "AXIAL_RESNET",
        0.25,
        0.5,
        ("MODEL.AXIAL_RESNET.STEM", "conv7_unpooled"),
        imagenet=True,
    ),
}
PANOPTIC = [name for name, layout in LAYOUTS.items() if not layout.imagenet]


def random_image(size: tuple[int, int] = ON_GRID, seed: int = 3) -> np.ndarray:
    """[height, width, 3] of uint8: blobs and noise, so that places differ."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (size[0] // 16 + 1, size[1] // 16 + 1, 3))
    blobs = coarse.repeat(16, axis=0).repeat(16, axis=1)[: size[0], : size[1]]
    return (blobs + random.integers(0, 56, (*size, 3))).astype(np.uint8)


@cache
def checkpoint(name: str) -> Arrays:
    layout = LAYOUTS[name]
    make = imagenet_checkpoint if layout.imagenet else panoptic_checkpoint
    arrays = make(layout.name, layout.width, layout.stem_width)
    return calibrated(arrays, random_image(), layout.output_stride)


def source_of(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.as_tensor(array) for name, array in arrays.items()}


def build(name: str, *options: Any) -> AxialDeepLab:
    """The whole model of a layout, with random weights."""
    layout = LAYOUTS[name]
    path = str(CONFIGS / f"{layout.config}.yaml")
    return build_model(load_config(path, [*layout.keys(), *options])).eval()


def convert(arrays: Arrays, model: nn.Module) -> Report:
    return convert_tensors(source_of(arrays), model)


def convert_tensors(source: dict[str, Tensor], model: nn.Module) -> Report:
    known = DeepLab2Format()
    rules, ignored = known.rules(model, source), known.ignored(model, source)
    return apply_rules(rules, source, shapes_of(model), ignored)


def load(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Everything but heads and counters of batches has to be there."""
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") or "_head." in name for name in missing)


def converted(name: str, *options: Any) -> AxialDeepLab:
    model = build(name, *options)
    load(model, convert(checkpoint(name), model).converted)
    return model


@cache
def shared_model(name: str) -> AxialDeepLab:
    """For tests that leave it as it is."""
    return converted(name)


@cache
def shared_conversion(name: str) -> Report:
    return convert(checkpoint(name), shared_model(name))


@cache
def scratch_model(name: str) -> AxialDeepLab:
    """For tests that load what they run."""
    return build(name)


def exact(model: AxialDeepLab) -> AxialDeepLab:
    """The model in float64, in place; outputs of the heads come as float32 all the same."""
    model.pixel_mean, model.pixel_std = model.pixel_mean.double(), model.pixel_std.double()
    return model.double()


@cache
def exact_model(name: str) -> AxialDeepLab:
    """:func:`shared_model` in float64."""
    return exact(converted(name))


@torch.no_grad()
def run(model: AxialDeepLab, image: np.ndarray, panoptic: bool = True) -> dict[str, np.ndarray]:
    """What the model computes, named and laid out as the NumPy model's results."""
    inputs = [{"image": torch.as_tensor(image).permute(2, 0, 1)}]
    images = model._images(inputs)
    results: dict[str, Tensor] = {k: v[0] for k, v in model.backbone(images).items()}
    if panoptic:
        maps = model._network_maps(images)
        results.update(zip(OUTPUTS, (each[0] for each in maps), strict=True))
        (resized,) = model.output_maps(inputs)
        results["probabilities_resized"] = resized.probabilities
        results["center_resized"] = resized.heatmap[None]
        results["offset_resized"] = resized.offsets
    return {name: np.moveaxis(tensor.numpy(), 0, -1) for name, tensor in results.items()}


def relative_error(given: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    assert given.shape == expected.shape
    return float(np.abs(given - expected).max() / np.abs(expected).max())


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
