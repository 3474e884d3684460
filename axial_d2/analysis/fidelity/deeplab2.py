"""DeepLab2's own counts of trainable parameters."""

from __future__ import annotations

from dataclasses import replace

from axial_d2.analysis.fidelity.axial_deeplab import CITYSCAPES_SIZE
from axial_d2.analysis.fidelity.tables import AXIAL, PublishedModel, PublishedTable

DEEPLAB2 = (
    f"{AXIAL}.STEM", "inception",
    f"{AXIAL}.STEM_WIDTH_MULTIPLIER", "1.0",
    "MODEL.SEM_SEG_HEAD.DECODER_INPUT", "projection",
    "MODEL.INS_EMBED_HEAD.DECODER_INPUT", "projection",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19",
)  # fmt: skip


# Parts of axial_deeplab_s as DeepLab2 names them, their modules here, and their sizes.
PARTS = (
    ("encoder", ("backbone",), 11_565_856),
    ("semantic decoder", ("sem_seg_head.decoder",), 456_416),
    ("semantic head", ("sem_seg_head.head", "sem_seg_head.predictor"), 77_843),
    ("instance decoder", ("ins_embed_head.decoder",), 340_464),
    ("centre head", ("ins_embed_head.center_head", "ins_embed_head.center_predictor"), 7_649),
    ("offset head", ("ins_embed_head.offset_head", "ins_embed_head.offset_predictor"), 7_682),
)


def _panoptic(size: str, parameters: int) -> PublishedModel:
    return PublishedModel(
        f"axial_deeplab_{size}",
        DEEPLAB2,
        CITYSCAPES_SIZE,
        parameters,
        config_file=f"cityscapes/axial_deeplab_{size}.yaml",
    )


def _backbone(name: str, width: float, parameters: int) -> PublishedModel:
    options = (
        "MODEL.BACKBONE.NAME", "build_axial_resnet_backbone",
        f"{AXIAL}.STEM", "conv7",
        f"{AXIAL}.STEM_WIDTH_MULTIPLIER", "1.0",
        f"{AXIAL}.WIDTH_MULTIPLIER", str(width),
    )  # fmt: skip
    return PublishedModel(name, options, parameters=parameters, parts=("backbone",))


def _deeplab2() -> PublishedTable:
    small = _panoptic("s", 12_455_910)
    parts = (
        replace(small, name=f"{small.name}, {name}", parameters=parameters, parts=modules)
        for name, modules, parameters in PARTS
    )
    return PublishedTable(
        "DeepLab2's models, trainable parameters exactly",
        "Panoptic models: the stem of three convolutions keeps its 128 channels at every width "
        "and has no pool; a 1×1 projection stands for the ASPP; 19 classes. Backbones: a 7×7 stem "
        "of 64 channels at every width. Tables of 509 rows.",
        (
            small,
            *parts,
            _panoptic("l", 45_286_982),
            _backbone("axial_resnet_s", 0.5, 11_466_912),
            _backbone("axial_resnet_l", 1.0, 43_714_048),
        ),
    )


TABLES = (_deeplab2(),)
