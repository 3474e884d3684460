"""The tables of Axial-DeepLab (ECCV 2020, arXiv 2003.07853)."""

from __future__ import annotations

from axial_d2.analysis.fidelity.tables import (
    AXIAL,
    LOCAL,
    PublishedModel,
    PublishedTable,
    stages,
)

CITYSCAPES_SIZE = (1025, 2049)
COCO_SIZE = (1025, 1025)
SPANS = {5: 617.4, 9: 622.1, 17: 631.5, 33: 650.2, 65: 687.4}


def _axial_deeplab() -> PublishedTable:
    coco = {"s": (12.1, 110.4), "m": (25.9, 209.9), "l": (44.9, 343.9), "xl": (173.0, None)}
    cityscapes = {"s": (12.1, 220.8), "m": (25.9, 419.6), "l": (44.9, 687.4), "xl": (173.0, 2446.8)}
    return PublishedTable(
        "Axial-DeepLab",
        "The `paper` preset, `configs/Base-AxialDeepLab.yaml`: a stem of three 3×3 convolutions "
        "that scales with the width, followed by a 3×3 max-pool; striding straight after each "
        "axis; nothing in place of the ASPP; decoders and heads that do not scale; span 65.",
        tuple(
            PublishedModel(
                f"Axial-DeepLab-{size.upper()}, {dataset}",
                (),
                input_size,
                *costs[size],
                config_file=f"{folder}/axial_deeplab_{size}.yaml",
            )
            for dataset, folder, input_size, costs in (
                ("COCO 1025×1025", "coco", COCO_SIZE, coco),
                ("Cityscapes 1025×2049", "cityscapes", CITYSCAPES_SIZE, cityscapes),
            )
            for size in costs
        ),
    )


def _spans() -> PublishedTable:
    return PublishedTable(
        "Spans of Axial-DeepLab-L on Cityscapes",
        "The same preset; a window counts all of its positions, those beyond the border too.",
        tuple(
            PublishedModel(
                f"span {span}",
                (f"{AXIAL}.SPAN", str(span)),
                CITYSCAPES_SIZE,
                44.9,
                multiply_adds,
                config_file="cityscapes/axial_deeplab_l.yaml",
            )
            for span, multiply_adds in SPANS.items()
        ),
    )


POSITION_SENSITIVE = (
    f"{LOCAL}.STAGE_TYPES",
    stages("local_ps", "local_ps", "local_ps", "local_ps"),
)
AXIAL_IMAGENET = (
    "MODEL.BACKBONE.NAME",
    "build_axial_resnet_backbone",
    f"{AXIAL}.STRIDING",
    "avg_pool",
)


def _classifier(name: str, config: str, parameters: float, multiply_adds: float) -> PublishedModel:
    return PublishedModel(
        name,
        parameters=parameters,
        multiply_adds=multiply_adds,
        config_file=f"imagenet/{config}.yaml",
    )


def _imagenet() -> PublishedTable:
    return PublishedTable(
        "ImageNet classification at 224×224 (Axial-DeepLab)",
        "`configs/imagenet`. The paper's stem for classification is ResNet's: one 7×7 convolution "
        "and a max-pool, scaled with the width of Axial-ResNet. Striding is a 2×2 average pool "
        "after the attention, as in SASA and in the authors' code; striding by subsampling, which "
        "fits the segmentation tables, misses here (see the last table). Full Axial-ResNet has "
        "span 15 in all blocks. Tables of 509 rows everywhere.",
        (
            _classifier("ResNet-50", "resnet50", 25.6, 4.1),
            _classifier("Conv-Stem + Attention", "sasa_50", 18.0, 3.5),
            PublishedModel(
                "Conv-Stem + Position-Sensitive Attention",
                POSITION_SENSITIVE,
                parameters=18.0,
                multiply_adds=3.7,
            ),
            _classifier("Conv-Stem + Axial-Attention (S)", "axial_resnet_s", 12.4, 2.8),
            _classifier("Full Axial-Attention (S)", "axial_resnet_s_full", 12.5, 3.3),
        ),
    )


def _segmentation_backbones() -> PublishedTable:
    published = {
        "ResNet-50": ("resnet50", (24.8, 374.8), (30.0, 390.0)),
        "Attention": ("attention", (17.3, 317.7), (22.5, 332.9)),
        "Position-Sensitive Attention": (
            "position_sensitive_attention", (17.3, 326.7), (22.5, 341.9),
        ),
    }  # fmt: skip
    return PublishedTable(
        "Segmentation backbones in the same decoders, Cityscapes 1025×2049 (Axial-DeepLab)",
        "`configs/cityscapes/backbones`: Panoptic-DeepLab's stem of three 3×3 convolutions at "
        "width 1.0; window 7×7; output stride 16.",
        tuple(
            PublishedModel(
                f"{name}{label}",
                (),
                CITYSCAPES_SIZE,
                *cost,
                config_file=f"cityscapes/backbones/{stem}{suffix}.yaml",
            )
            for name, (stem, plain, with_aspp) in published.items()
            for label, suffix, cost in (("", "", plain), (" + ASPP", "_aspp", with_aspp))
        ),
    )


SPAN_TABLE = _spans()
TABLES = (_axial_deeplab(), SPAN_TABLE, _imagenet(), _segmentation_backbones())
