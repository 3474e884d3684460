"""SASA's RetinaNets (arXiv 1906.05909, table 2), and what other readings of them give."""

from __future__ import annotations

from axial_d2.analysis.fidelity.tables import Options, PublishedModel, PublishedTable

INPUT_SIZE = (640, 640)
# COCO's category ids go to 90, of which 80 are used; TensorFlow's RetinaNet has 90 outputs.
CLASSES = ("MODEL.RETINANET.NUM_CLASSES", "90")
# Config → (the paper's name, FLOPs in billions, parameters in millions).
ROWS = {
    "retinanet_resnet50": ("convolutional heads, ResNet-50", 182, 33.4),
    "retinanet_sasa50": ("convolutional heads, conv-stem + attention", 173, 25.9),
    "retinanet_sasa50_full": ("convolutional heads, full attention", 173, 25.9),
    "attention_retinanet_sasa50": ("attention heads, conv-stem + attention", 111, 22.0),
    "attention_retinanet_sasa50_full": ("attention heads, full attention", 110, 22.0),
}

_SCALES = (32, 64, 128, 256, 512)
_PARTS = "MODEL.FPN.ATTENTION.PARTS"
_THREE_SCALES = repr([[round(s * 2 ** (i / 3), 2) for i in range(3)] for s in _SCALES])
_NO_NORMS = ("MODEL.FPN.NORM", "", "MODEL.RETINANET.NORM", "")
# What could be chosen otherwise, one choice at a time.
EVERY_ROW: dict[str, Options] = {
    "the preset": (),
    "80 classes": ("MODEL.RETINANET.NUM_CLASSES", "80"),
    "9 anchors a position": ("MODEL.ANCHOR_GENERATOR.SIZES", _THREE_SCALES),
    "p6 from res5, as in Detectron2": ("MODEL.FPN.TOP_INPUT", "res5"),
    "no norm in FPN and heads": _NO_NORMS,
}
ATTENTION_ROWS: dict[str, Options] = {
    "attention behind each level of the FPN": (_PARTS, "['output']"),
    "attention in p6 and p7": (_PARTS, "['top']"),
    "attention in all of the FPN": (_PARTS, "['output', 'top']"),
    "four layers of attention a branch": ("MODEL.RETINANET.NUM_CONVS", "3"),
    "six layers of attention a branch": ("MODEL.RETINANET.NUM_CONVS", "5"),
}


def _row(config: str, choice: str = "", options: Options = ()) -> PublishedModel:
    name, flops, parameters = ROWS[config]
    return PublishedModel(
        f"{name}: {choice}" if choice else name,
        (*CLASSES, *options),
        INPUT_SIZE,
        parameters,
        flops / 2,
        config_file=f"coco/detection/{config}.yaml",
    )


TABLES = (
    PublishedTable(
        "Stand-alone self-attention in RetinaNet on COCO (SASA, table 2)",
        "`configs/coco/detection`, with 90 classes (COCO's ids) as in TensorFlow's RetinaNet; the "
        "configs have the 80 that exist. Inferred from the fit: input 640×640, six anchors a "
        "position (two scales of three shapes), p6 made from p5, batch norms in FPN and heads. In "
        "the heads, all five 3×3 convolutions of a branch are attention, and a pointwise one "
        "follows. FPN is convolutional, whatever the paper says: see the other readings below. "
        "Billions of multiply-adds are half of the printed FLOPs.",
        tuple(_row(config) for config in ROWS),
    ),
)

ALTERNATIVES = (
    PublishedTable(
        "SASA's RetinaNets otherwise",
        "One choice at a time changed.",
        (
            *(
                _row(config, choice, options)
                for config in ("retinanet_resnet50", "attention_retinanet_sasa50")
                for choice, options in EVERY_ROW.items()
            ),
            *(
                _row("attention_retinanet_sasa50", choice, options)
                for choice, options in ATTENTION_ROWS.items()
            ),
        ),
    ),
)
