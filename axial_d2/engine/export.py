"""Models as files for other programs: ``torch.export`` (.pt2) and ONNX (.onnx).

What is exported ends before post-processing, which depends on the data. Attention is that of the
reference implementation, plain operators that every runtime knows; its memory grows with the
square of the attention's reach.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from axial_d2.analysis.networks import ClassifierNetwork, Network, PanopticNetwork
from axial_d2.engine.checks import BACKBONE_NODES
from axial_d2.meta_arch import AxialDeepLab, ImageClassifier
from detectron2.config import CfgNode
from detectron2.projects.panoptic_deeplab import PanopticDeepLab
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

PARTS = ("network", "backbone")
#: Of the part "network"; the maps have the heads' common stride, offsets its cells as their unit.
MAP_NAMES = ("semantic_logits", "center_heatmap", "offsets")
# Meta-architecture → what of it is the part "network", and the names of its outputs.
NETWORKS: dict[type[nn.Module], tuple[type[Network], tuple[str, ...]]] = {
    AxialDeepLab: (PanopticNetwork, MAP_NAMES),
    PanopticDeepLab: (PanopticNetwork, MAP_NAMES),
    ImageClassifier: (ClassifierNetwork, ("logits",)),
}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Largest error over the largest value of an output.
TOLERANCE = 1e-3


class ExportError(ValueError):
    """What cannot be exported so, and what to do about it."""


def with_reference_attention(cfg: CfgNode) -> CfgNode:
    """A copy of the config whose backbones use operators that every runtime knows."""
    cfg = cfg.clone()
    cfg.defrost()
    for node in BACKBONE_NODES:
        cfg.MODEL[node].ATTENTION_IMPL = "reference"
    return cfg


class Exportable(nn.Module):
    """From images [B, C, H, W], values 0 … 255 in ``INPUT.FORMAT`` order, to named tensors.

    Args:
        model: of a config, see :func:`with_reference_attention`; used in ``eval()``.
        part: "network" (backbone and heads of Axial- and Panoptic-DeepLab, :data:`MAP_NAMES`, or
            of an image classifier, "logits") or "backbone" (its feature maps by name).

    Raises:
        ExportError: an unknown part, or one that the model does not have.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, part: str):
        super().__init__()
        if part not in PARTS:
            raise ExportError(f"part {part!r} is unknown; choose one of {PARTS}.")
        network = next((NETWORKS[kind] for kind in type(model).mro() if kind in NETWORKS), None)
        if part == "network" and network is None:
            raise ExportError(
                f"{type(model).__name__} has no network that ends in maps; export its part "
                "'backbone', or an AxialDeepLab or ImageClassifier."
            )
        self.register_buffer("mean", model.pixel_mean.detach().clone())
        self.register_buffer("std", model.pixel_std.detach().clone())
        if part == "network" and network is not None:
            kind, self.names = network
            self.body: Any = kind(model)
            self.step = getattr(model, "grid_step", 0)
        else:
            self.body, self.step = model.backbone, 0
            self.names = tuple(model.backbone.output_shape())
        self.eval()
        model.eval()  # also where the body does not hold all of it

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self.body((images - self.mean) / self.std)
        if isinstance(outputs, Tensor):
            outputs = (outputs,)
        if not isinstance(outputs, dict):
            outputs = dict(zip(self.names, outputs, strict=True))
        return {name: outputs[name] for name in self.names}

    def check_size(self, size: Sequence[int]) -> None:
        """Raises ExportError for an image that the model would pad, as (height, width)."""
        multiple, rest = (self.step, 1) if self.step else (self.body.size_divisibility, 0)
        if multiple <= 1 or all(side % multiple == rest % multiple for side in size):
            return
        nearest = [math.ceil((side - rest) / multiple) * multiple + rest for side in size]
        raise ExportError(
            f"an image of {size[0]}x{size[1]} would be padded, which the exported model does not; "
            f"sides must be multiples of {multiple}{' plus 1' if rest else ''}, such as "
            f"{nearest[0]}x{nearest[1]}."
        )


def export_program(
    module: Exportable, size: tuple[int, int], dynamic_batch: bool = False
) -> ExportedProgram:
    """``torch.export`` of a model for images of one size.

    Args:
        size: height and width.
        dynamic_batch: whether the batch may have any number of images; one otherwise.

    Raises:
        ExportError: a size that the model would pad.
    """
    module.check_size(size)
    shapes = {"images": {0: Dim("batch", min=1)}} if dynamic_batch else None
    with torch.no_grad():
        return torch.export.export(
            module, (example(module, size, 2 if dynamic_batch else 1),), dynamic_shapes=shapes
        )


def example(module: Exportable, size: tuple[int, int], batch: int) -> Tensor:
    """Noise of the range of an image, [batch, C, H, W]."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, len(module.mean), *size, generator=generator) * 255


def check_output(path: Path) -> None:
    """Raises ExportError for a file that cannot be written, or not without further packages."""
    if path.suffix not in WRITERS:
        raise ExportError(f"{path} must end in one of {', '.join(WRITERS)}, which says its format.")
    if not path.absolute().parent.is_dir():
        raise ExportError(f"there is no folder {path.parent} for {path.name}; make it first.")
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise ExportError(
            f"ONNX needs the packages {', '.join(missing)}: pip install -e '.[export]' in the "
            "axial_d2 checkout; .pt2 needs none."
        )


def write(program: ExportedProgram, module: Exportable, path: Path) -> None:
    """Writes a program in the format that the name of the file says."""
    WRITERS[path.suffix][0](program, module, path)


def error_of_file(path: Path, module: Exportable, images: Tensor) -> float:
    """Largest error of a file's outputs over the largest value of each, beside the model's own."""
    with torch.no_grad():
        expected = module(images)
        given = WRITERS[path.suffix][1](path, images, module.names)
    errors = [
        (given[name] - want).abs().max() / want.abs().max() for name, want in expected.items()
    ]
    return float(torch.stack(errors).max())


def _write_pt2(program: ExportedProgram, module: Exportable, path: Path) -> None:
    torch.export.save(program, path)


def _run_pt2(path: Path, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    return torch.export.load(path).module()(images)


def _write_onnx(program: ExportedProgram, module: Exportable, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that a later version would choose otherwise
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=list(module.names),
        )
    assert exported is not None
    exported.save(str(path))


def _run_onnx(path: Path, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(list(names), {"images": images.numpy()})
    return {name: torch.from_numpy(np.asarray(o)) for name, o in zip(names, outputs, strict=True)}


# Ending of a file → how to write one, and how to run it.
WRITERS: dict[str, tuple[Callable[..., None], Callable[..., dict[str, Tensor]]]] = {
    ".pt2": (_write_pt2, _run_pt2),
    ".onnx": (_write_onnx, _run_onnx),
}
