"""docs/model_zoo.md: every config with its cost counted here and the results others published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from axial_d2.analysis.counter import analyze
from axial_d2.engine.setup import load_config
from tabulate import tabulate

PAPER = "Axial-DeepLab"
DEEPLAB2 = "DeepLab2"


@dataclass(frozen=True)
class PublishedResults:
    """Accuracy on the validation set that others trained and published, single-scale.

    Attributes:
        source: who published it.
        panoptic_quality, average_precision, mean_iou: PQ, mask AP and mIoU in percent.
        note: what else the source says.
    """

    source: str
    panoptic_quality: float | None = None
    average_precision: float | None = None
    mean_iou: float | None = None
    note: str = ""


@dataclass(frozen=True)
class DatasetSection:
    """The configs of one data set: their folder, and the input size that costs are given for."""

    title: str
    folder: str
    input_size: tuple[int, int]


SECTIONS = (
    DatasetSection("COCO panoptic", "coco", (1025, 1025)),
    DatasetSection("Cityscapes", "cityscapes", (1025, 2049)),
    DatasetSection("Cityscapes, other backbones", "cityscapes/backbones", (1025, 2049)),
    DatasetSection("Cityscapes, DeepLab2's models", "cityscapes/deeplab2", (1025, 2049)),
    DatasetSection("Mapillary Vistas v1.2", "mapillary", (2177, 2177)),
    DatasetSection("The demo's data set", "demo", (128, 128)),
)

RESULTS = {
    "coco/axial_deeplab_s": PublishedResults(PAPER, 41.8),
    "coco/axial_deeplab_m": PublishedResults(PAPER, 42.9),
    "coco/axial_deeplab_l": PublishedResults(PAPER, 43.4, note="43.9 multi-scale"),
    "cityscapes/axial_deeplab_s": PublishedResults(PAPER, 62.6, 34.9, 80.5),
    "cityscapes/axial_deeplab_m": PublishedResults(PAPER, 63.1, 35.6, 80.3),
    "cityscapes/axial_deeplab_l": PublishedResults(PAPER, 63.9, 35.8, 81.0),
    "cityscapes/axial_deeplab_xl": PublishedResults(PAPER, 64.4, 36.7, 80.6),
    "cityscapes/deeplab2/axial_swidernet_x1": PublishedResults(DEEPLAB2, 66.1, None, 82.8),
    "cityscapes/deeplab2/axial_swidernet_x3": PublishedResults(DEEPLAB2, 67.1, None, 83.5),
    "cityscapes/deeplab2/axial_swidernet_x4.5": PublishedResults(DEEPLAB2, 68.0, None, 83.0),
    "cityscapes/deeplab2/max_deeplab_s_backbone": PublishedResults(DEEPLAB2, 64.5, None, 82.2),
    "cityscapes/deeplab2/max_deeplab_l_backbone": PublishedResults(DEEPLAB2, 66.3, None, 83.1),
    "mapillary/axial_deeplab_l": PublishedResults(PAPER, 40.1),
}

HEADER = """# Model zoo

Every config here, with its parameters (millions) and multiply-adds (billions, at the size named,
one image, without post-processing) counted by `axial_d2.analysis`, and the accuracy that **others
trained and published** for that model on the validation set, single-scale unless noted. None of it
was trained by us; where nothing is published, a dash. Written by `tools/fidelity_report.py`;
[fidelity.md](fidelity.md) compares the costs with the published ones. What we do train, on the
demo's data set, is in the [README](../README.md) and in [demo_comparison.md](demo_comparison.md).
"""


def config_names(section: DatasetSection, config_root: Path) -> list[str]:
    """Names of the section's configs, such as "coco/axial_deeplab_s", bases left out."""
    files = (config_root / section.folder).glob("*.yaml")
    names = [f"{section.folder}/{file.stem}" for file in files if not file.stem.startswith("Base")]
    return sorted(names, key=_by_size)


def _by_size(name: str) -> tuple:
    """S, M, L, XL in this order, the rest by name."""
    stem, _, size = name.rpartition("_")
    sizes = ("s", "m", "l", "xl")
    return (stem, sizes.index(size), "") if size in sizes else (name, -1, "")


def write_zoo(config_root: Path) -> Iterator[str]:
    """The document's parts, one data set after the other.

    Args:
        config_root: the folder ``configs``.
    """
    yield HEADER
    for section in SECTIONS:
        names = config_names(section, config_root)
        rows = [_row(name, section.input_size, config_root) for name in names]
        height, width = section.input_size
        headers = [
            "config", "parameters", f"multiply-adds, {height}×{width}",
            "PQ", "mask AP", "mIoU", "trained by",
        ]  # fmt: skip
        body = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
        yield f"## {section.title}\n\n{body}\n"


def _row(name: str, input_size: tuple[int, int], config_root: Path) -> list[str]:
    cost = analyze(load_config(str(config_root / f"{name}.yaml")), input_size)
    results = RESULTS.get(name, PublishedResults("–"))
    figures = (results.panoptic_quality, results.average_precision, results.mean_iou)
    source = f"{results.source}; {results.note}" if results.note else results.source
    return [
        f"[{name}](../configs/{name}.yaml)",
        f"{cost.parameters / 1e6:.2f}M",
        f"{cost.multiply_adds / 1e9:.1f}B",
        *("–" if figure is None else f"{figure:.1f}" for figure in figures),
        source,
    ]
