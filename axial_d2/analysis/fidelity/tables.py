"""What a published table is made of."""

from __future__ import annotations

from dataclasses import dataclass

AXIAL = "MODEL.AXIAL_RESNET"
LOCAL = "MODEL.LOCAL_ATTENTION_RESNET"
Options = tuple[str, ...]


@dataclass(frozen=True)
class PublishedModel:
    """One row of a published table.

    Attributes:
        name: as the paper has it.
        options: KEY VALUE pairs over ``config_file`` that build it here.
        input_size: (height, width) in pixels that its cost is printed for.
        parameters: in millions, or exactly where it is an integer; None where none is printed.
        multiply_adds: in billions; None where none are printed.
        config_file: under ``configs``; default: that of ImageNet's classifiers, which names no
            backbone but SASA's.
        parts: names of the modules that count; none for the whole model.
    """

    name: str
    options: Options = ()
    input_size: tuple[int, int] = (224, 224)
    parameters: float | int | None = None
    multiply_adds: float | None = None
    config_file: str = "imagenet/Base-ImageNet.yaml"
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedTable:
    """Rows of one table and what was chosen to build them."""

    title: str
    choices: str
    models: tuple[PublishedModel, ...]


def stages(*types: str) -> str:
    """Stage types as a KEY VALUE pair has them."""
    return repr(list(types))


ALL_CONV = (f"{LOCAL}.STAGE_TYPES", stages("conv", "conv", "conv", "conv"))
