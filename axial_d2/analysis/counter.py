"""Counts a model, or the model of a config, without computing it."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from axial_d2.analysis.cost import ModelCost, ModuleCost
from axial_d2.analysis.networks import name_in_model, needs_data, network_of
from axial_d2.analysis.operators import TraceableConvolutions, opaque_attention
from axial_d2.analysis.products import (
    IGNORED_OPERATORS,
    Handle,
    activation_handles,
    check_count_border,
    multiply_add_handles,
    scripted_function_handle,
)
from axial_d2.engine.skeleton import build_without_data
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from fvcore.nn import parameter_count
from fvcore.nn.jit_analysis import JitModelAnalysis
from torch import Tensor, nn


def analyze(
    cfg_or_model: CfgNode | nn.Module,
    input_size: tuple[int, int],
    *,
    channels: int | None = None,
    count_border: str = "full",
) -> ModelCost:
    """Parameters, multiply-adds and activations of a model in inference on one image.

    A meta-architecture in :data:`.networks.NETWORKS`, a backbone and any other module are run
    on the meta device: no size needs memory or more than seconds. Other meta-architectures
    (those of the R-CNN family) compute on the CPU, on an image of noise; the cost of their
    second stage depends on the boxes that they find there.

    Args:
        cfg_or_model: a config, whose weights and data sets are not needed, or a model: a
            meta-architecture, or a module that takes a tensor [1, C, H, W]. A model is left as
            it is.
        input_size: (H, W) of the image in pixels, before the model pads it.
        channels: of the image; default those of the model's ``pixel_mean``, or 3.
        count_border: of :func:`.products.attention_pairs`; "full" (default) fits the published
            tables.

    Raises:
        ValueError: a size that is not positive, or an unknown ``count_border``.
    """
    _check_size(input_size)
    check_count_border(count_border)
    model = _on_its_device(cfg_or_model)
    network = network_of(model)
    image = _image(model, network.padded_size(input_size), channels)
    with _inference(model), opaque_attention(), _traceable(image):
        analysis, unknown = _count(network, image, count_border)
    by_module = _by_module(network, analysis)
    return ModelCost(
        **vars(by_module[""]),
        input_shape=tuple(image.shape),
        count_border=count_border,
        depends_on_data=needs_data(type(model)),
        by_module=by_module,
        by_operator=_of_kind("multiply_adds", analysis.by_operator()),
        unsupported_operators=dict(analysis.unsupported_ops() + unknown),
        uncalled_modules=_uncalled_modules(network, analysis),
    )


def _check_size(input_size: tuple[int, int]) -> None:
    if len(input_size) != 2 or min(input_size) < 1:
        raise ValueError(
            f"input_size is {input_size}; it must be (height, width), both at least 1."
        )


def _on_its_device(cfg_or_model: CfgNode | nn.Module) -> nn.Module:
    """The model to count: without memory, unless it needs data."""
    if isinstance(cfg_or_model, CfgNode):
        return _build(cfg_or_model)
    if needs_data(type(cfg_or_model)):
        return cfg_or_model
    return _on_meta(cfg_or_model)


def _build(cfg: CfgNode) -> nn.Module:
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    device = "cpu" if needs_data(architecture) else "meta"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # where boxes depend on the weights, the same ones every time
        return build_without_data(cfg, device)


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy of the model without its numbers, and without ever copying them."""
    shapes: dict[int, Tensor] = {}
    for parameter in model.parameters():
        meta = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        shapes[id(parameter)] = meta
    for buffer in model.buffers():
        shapes[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, shapes)


def _image(model: Any, size: tuple[int, int], channels: int | None) -> Tensor:
    """Noise in the range of pixels, [1, C, H, W], on the model's device."""
    if channels is None:
        channels = len(model.pixel_mean) if hasattr(model, "pixel_mean") else 3
    shape = (1, channels, *size)
    like = next(model.parameters(), torch.empty(0, device="meta"))
    if like.is_meta:
        return like.new_empty(shape)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return (noise * 255).to(like)


@contextlib.contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module then gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _traceable(image: Tensor) -> contextlib.AbstractContextManager:
    if not image.is_meta:
        return contextlib.nullcontext()
    return TraceableConvolutions()


def _count(
    network: nn.Module, image: Tensor, count_border: str
) -> tuple[JitModelAnalysis, Counter[str]]:
    """Both counts from one trace, and the scripted functions met that are unknown."""
    unknown: Counter[str] = Counter()
    products, elements = multiply_add_handles(count_border), activation_handles()
    handles: dict[str, Handle | None] = {
        **dict.fromkeys(IGNORED_OPERATORS),
        **{name: partial(_joint, products[name], elements[name]) for name in products},
        "prim::CallFunction": scripted_function_handle(unknown),
    }
    analysis = JitModelAnalysis(network, image).set_op_handle(**handles)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)  # ModelCost has them
    analysis.total()
    return analysis, unknown


def _joint(
    products: Handle, elements: Handle, inputs: Sequence[Any], outputs: Sequence[Any]
) -> Counter[str]:
    """Both counts of an operator in one counter, told apart by a prefix of their names."""
    counts = {
        "multiply_adds": products(inputs, outputs),
        "activations": elements(inputs, outputs),
    }
    return Counter(
        {f"{kind}:{name}": count for kind in counts for name, count in counts[kind].items()}
    )


def _of_kind(kind: str, counts: Mapping[str, int]) -> dict[str, int]:
    prefix = f"{kind}:"
    return {
        name.removeprefix(prefix): count
        for name, count in counts.items()
        if name.startswith(prefix)
    }


def _by_module(network: nn.Module, analysis: JitModelAnalysis) -> dict[str, ModuleCost]:
    """By the names that modules have in the model."""
    parameters = parameter_count(network)
    return {
        name_in_model(network, name): ModuleCost(
            parameters=parameters[name],
            multiply_adds=sum(_of_kind("multiply_adds", counts).values()),
            activations=sum(_of_kind("activations", counts).values()),
        )
        for name, counts in analysis.by_module_and_operator().items()
    }


def _uncalled_modules(network: nn.Module, analysis: JitModelAnalysis) -> tuple[str, ...]:
    """Those that own a matrix or a kernel, for which a product was to be expected."""
    uncalled = analysis.uncalled_modules()
    return tuple(
        name_in_model(network, name)
        for name, module in network.named_modules()
        if name in uncalled and any(p.dim() > 1 for p in module.parameters(recurse=False))
    )
