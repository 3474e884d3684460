"""What others trained and published for our configs: results on validation sets, and weights."""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "Axial-DeepLab"
DEEPLAB2 = "DeepLab2"
DANET = "DANet"
SASA = "SASA"
AUTHORS = "the authors' PyTorch code"


@dataclass(frozen=True)
class PublishedResults:
    """Accuracy on the validation set that others trained and published, single-scale.

    Attributes:
        source: who published it.
        panoptic_quality, average_precision, mean_iou, box_average_precision, top1: PQ, mask AP,
            mIoU, box AP and top-1 accuracy in percent.
        note: what else the source says.
    """

    source: str
    panoptic_quality: float | None = None
    average_precision: float | None = None
    mean_iou: float | None = None
    note: str = ""
    box_average_precision: float | None = None
    top1: float | None = None


@dataclass(frozen=True)
class PublicWeights:
    """A file of weights that others publish.

    Attributes:
        source: who publishes it.
        address: of the file, or of the archive it is in.
        is_tensorflow: whether converting it needs tensorflow; all others load as they are.
    """

    source: str
    address: str
    is_tensorflow: bool

    @property
    def file(self) -> str:
        """The name that it is fetched under."""
        return self.address.rpartition("/")[2]

    @property
    def is_archive(self) -> bool:
        return self.file.endswith(".tar.gz")


#: Name of a figure in tables → attribute of :class:`PublishedResults`.
FIGURES = {
    "PQ": "panoptic_quality",
    "mask AP": "average_precision",
    "mIoU": "mean_iou",
    "box AP": "box_average_precision",
    "top-1": "top1",
}
SEGMENTATION = ("PQ", "mask AP", "mIoU")
DETECTION = ("box AP", "mask AP")
CLASSIFICATION = ("top-1",)


@dataclass(frozen=True)
class DatasetSection:
    """The configs of one data set: their folder, and the input size that costs are given for.

    Attributes:
        title: for people.
        folder: under ``configs``.
        input_size: (H, W) in pixels.
        figures: what is measured on it, of :data:`FIGURES`.
    """

    title: str
    folder: str
    input_size: tuple[int, int]
    figures: tuple[str, ...] = SEGMENTATION


SECTIONS = (
    DatasetSection("COCO panoptic", "coco", (1025, 1025)),
    DatasetSection("COCO boxes and masks", "coco/detection", (640, 640), DETECTION),
    DatasetSection("Cityscapes", "cityscapes", (1025, 2049)),
    DatasetSection("Cityscapes, other backbones", "cityscapes/backbones", (1025, 2049)),
    DatasetSection("Cityscapes, the authors' backbones", "cityscapes/authors", (1025, 2049)),
    DatasetSection("Cityscapes, DeepLab2's models", "cityscapes/deeplab2", (1025, 2049)),
    DatasetSection("Cityscapes semantic, DANet", "cityscapes/dual_attention", (1024, 2048)),
    DatasetSection(
        "Cityscapes semantic, Attention to Scale", "cityscapes/scale_attention", (1024, 2048)
    ),
    DatasetSection("Mapillary Vistas v1.2", "mapillary", (2177, 2177)),
    DatasetSection("Mapillary Vistas v2.0", "mapillary/v2.0", (2177, 2177)),
    DatasetSection("ImageNet", "imagenet", (224, 224), CLASSIFICATION),
    DatasetSection("The demo's data set", "demo", (128, 128)),
    DatasetSection("The demo's data set, other backbones", "demo/backbones", (128, 128)),
    DatasetSection("The demo's data set, boxes", "demo/detection", (128, 128), DETECTION),
    DatasetSection("The demo's data set, semantic: DANet", "demo/dual_attention", (128, 128)),
    DatasetSection(
        "The demo's data set, semantic: Attention to Scale", "demo/scale_attention", (128, 128)
    ),
    DatasetSection(
        "The demo's pictures of one class each", "demo/classification", (48, 48), CLASSIFICATION
    ),
)

_DEEPLAB2_FOLDER = "cityscapes/deeplab2"

RESULTS = {
    "coco/axial_deeplab_s": PublishedResults(PAPER, 41.8),
    "coco/axial_deeplab_m": PublishedResults(PAPER, 42.9),
    "coco/axial_deeplab_l": PublishedResults(PAPER, 43.4, note="43.9 multi-scale"),
    "cityscapes/axial_deeplab_s": PublishedResults(PAPER, 62.6, 34.9, 80.5),
    "cityscapes/axial_deeplab_m": PublishedResults(PAPER, 63.1, 35.6, 80.3),
    "cityscapes/axial_deeplab_l": PublishedResults(PAPER, 63.9, 35.8, 81.0),
    "cityscapes/axial_deeplab_xl": PublishedResults(PAPER, 64.4, 36.7, 80.6),
    f"{_DEEPLAB2_FOLDER}/axial_swidernet_x1": PublishedResults(DEEPLAB2, 66.1, None, 82.8),
    f"{_DEEPLAB2_FOLDER}/axial_swidernet_x3": PublishedResults(DEEPLAB2, 67.1, None, 83.5),
    f"{_DEEPLAB2_FOLDER}/axial_swidernet_x4.5": PublishedResults(DEEPLAB2, 68.0, None, 83.0),
    f"{_DEEPLAB2_FOLDER}/max_deeplab_s_backbone": PublishedResults(DEEPLAB2, 64.5, None, 82.2),
    f"{_DEEPLAB2_FOLDER}/max_deeplab_l_backbone": PublishedResults(DEEPLAB2, 66.3, None, 83.1),
    "cityscapes/dual_attention/danet_resnet101": PublishedResults(
        DANET, mean_iou=79.9, note="81.5 multi-scale"
    ),
    "mapillary/axial_deeplab_l": PublishedResults(PAPER, 40.1),
    "imagenet/axial_resnet_s": PublishedResults(PAPER, top1=77.5),
    "imagenet/axial_resnet_s_full": PublishedResults(PAPER, top1=78.1),
    "imagenet/axial_resnet_26s": PublishedResults(AUTHORS, top1=75.8),
    "imagenet/resnet50": PublishedResults(SASA, top1=76.9),
    "imagenet/sasa_26": PublishedResults(SASA, top1=75.8),
    "imagenet/sasa_38": PublishedResults(SASA, top1=77.1),
    "imagenet/sasa_50": PublishedResults(SASA, top1=77.4),
    "imagenet/sasa_26_full": PublishedResults(SASA, top1=74.8),
    "imagenet/sasa_38_full": PublishedResults(SASA, top1=76.9),
    "imagenet/sasa_50_full": PublishedResults(SASA, top1=77.6),
}

_DEEPLAB2_ADDRESS = "https://storage.googleapis.com/gresearch/tf-deeplab/checkpoint"
# Config → DeepLab2's name of its backbone.
_DEEPLAB2_NAMES = {
    "axial_swidernet_x1": "axial_swidernet_1_1_1",
    "axial_swidernet_x3": "axial_swidernet_1_1_3",
    "axial_swidernet_x4.5": "axial_swidernet_1_1_4.5",
    "max_deeplab_s_backbone": "max_deeplab_s_backbone",
    "max_deeplab_l_backbone": "max_deeplab_l_backbone",
}


def _deeplab2(end: str) -> dict[str, PublicWeights]:
    return {
        f"{_DEEPLAB2_FOLDER}/{config}": PublicWeights(
            DEEPLAB2, f"{_DEEPLAB2_ADDRESS}/{name}_{end}.tar.gz", is_tensorflow=True
        )
        for config, name in _DEEPLAB2_NAMES.items()
    }


_AXIAL26S = PublicWeights(
    AUTHORS, "http://www.cs.jhu.edu/~hwang157/axial26s.pth", is_tensorflow=False
)
# Config → weights of the whole model, trained on its data set.
TRAINED = {
    **_deeplab2("os16_axial_deeplab_cityscapes_trainfine"),
    "imagenet/axial_resnet_26s": _AXIAL26S,
}
# Config → weights of its backbone, trained on ImageNet, which training starts from.
BACKBONES = {
    **_deeplab2("imagenet1k_strong_training_strategy"),
    "cityscapes/authors/axial_resnet_26s": _AXIAL26S,
}
