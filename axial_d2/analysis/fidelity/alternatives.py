"""Other readings of the papers, each built and counted, to show why the presets are as they are."""

from __future__ import annotations

from itertools import product

from axial_d2.analysis.fidelity.axial_deeplab import (
    AXIAL_IMAGENET,
    CITYSCAPES_SIZE,
    COCO_SIZE,
)
from axial_d2.analysis.fidelity.tables import AXIAL, Options, PublishedModel, PublishedTable

# What could be chosen otherwise in the segmentation models, one choice at a time.
SEGMENTATION: dict[str, Options] = {
    "the preset": (),
    "global attention": (f"{AXIAL}.SPAN", "0"),
    "stem not scaled with the width": (f"{AXIAL}.STEM_WIDTH_MULTIPLIER", "1.0"),
    "no pool in the stem": (f"{AXIAL}.STEM", "inception"),
    "no pool, stem not scaled": (
        f"{AXIAL}.STEM", "inception", f"{AXIAL}.STEM_WIDTH_MULTIPLIER", "1.0",
    ),
    "7×7 stem": (f"{AXIAL}.STEM", "conv7"),
    "average pool after both axes": (f"{AXIAL}.STRIDING", "avg_pool"),
    "1×1 projection before the decoders": (
        "MODEL.SEM_SEG_HEAD.DECODER_INPUT", "projection",
        "MODEL.INS_EMBED_HEAD.DECODER_INPUT", "projection",
    ),
    "ASPP before the decoders": (
        "MODEL.SEM_SEG_HEAD.DECODER_INPUT", "aspp", "MODEL.INS_EMBED_HEAD.DECODER_INPUT", "aspp",
    ),
}  # fmt: skip


def _segmentation(size: str, *costs: tuple[str, tuple[int, int], float, float]) -> PublishedTable:
    return PublishedTable(
        f"Axial-DeepLab-{size.upper()} otherwise",
        "One choice at a time changed against the `paper` preset.",
        tuple(
            PublishedModel(
                f"{dataset}: {choice}",
                options,
                input_size,
                parameters,
                multiply_adds,
                config_file=f"{dataset.lower()}/axial_deeplab_{size}.yaml",
            )
            for dataset, input_size, parameters, multiply_adds in costs
            for choice, options in SEGMENTATION.items()
        ),
    )


def _classification() -> PublishedTable:
    stems = {"conv7": "7×7 stem", "deeplab": "three convolutions and a pool"}
    stridings = {"avg_pool": "average pool", "subsample": "subsampling"}
    axial = tuple(
        PublishedModel(
            f"S, {stems[stem]}, {stridings[striding]}",
            (*AXIAL_IMAGENET, f"{AXIAL}.STEM", stem, f"{AXIAL}.STRIDING", striding),
            parameters=12.4,
            multiply_adds=2.8,
        )
        for stem, striding in product(stems, stridings)
    )
    spans = {"15": "span 15 everywhere", "0": "span 15 in the stem alone"}
    full = tuple(
        PublishedModel(
            f"full S, {spans[span]}, {stridings[striding]}",
            (
                *AXIAL_IMAGENET,
                *(f"{AXIAL}.STEM", "axial", f"{AXIAL}.SPAN", span),
                *(f"{AXIAL}.STRIDING", striding),
            ),
            parameters=12.5,
            multiply_adds=3.3,
        )
        for span, striding in product(spans, stridings)
    )
    return PublishedTable(
        "ImageNet models otherwise",
        "Every combination of the choices that the text leaves open; the first of each kind is "
        "the one above.",
        (*axial, *full),
    )


TABLES = (
    _segmentation("s", ("COCO", COCO_SIZE, 12.1, 110.4)),
    _segmentation("l", ("Cityscapes", CITYSCAPES_SIZE, 44.9, 687.4)),
    _classification(),
)
