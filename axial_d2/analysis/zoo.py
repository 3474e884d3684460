"""docs/model_zoo.md: every config with its cost counted here and what others published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from axial_d2.analysis.counter import analyze
from axial_d2.engine.setup import read_config
from axial_d2.model_zoo.config_files import config_names
from axial_d2.model_zoo.published import (
    BACKBONES,
    FIGURES,
    RESULTS,
    SECTIONS,
    TRAINED,
    DatasetSection,
    PublicWeights,
    PublishedResults,
)
from tabulate import tabulate

__all__ = ["SECTIONS", "write_zoo"]

HEADER = """# Model zoo

Every config here, with its parameters (millions) and multiply-adds (billions, at the size named,
one image, without post-processing) counted by `axial_d2.analysis`, and the accuracy that **others
trained and published** for that model on the validation set, single-scale unless noted. None of it
was trained by us; where nothing is published, a dash. Written by `tools/fidelity_report.py`;
[fidelity.md](fidelity.md) compares the costs with the published ones; "about" is said of models
whose cost depends on the boxes that they find. What we do train, on the demo's data set, is in the
[README](../README.md), in [demo_comparison.md](demo_comparison.md), in
[demo_detection.md](demo_detection.md) and in
[dual_and_scale_attention.md](dual_and_scale_attention.md).

From Python, `model_zoo.get("coco/axial_deeplab_s")` (`from axial_d2 import model_zoo`) builds a
model by its name here, and `pretrained=True` loads its converted weights.
"""

WEIGHTS = """## Where weights come from

Nothing is fetched without being asked for; [weights.md](weights.md) has the steps. **Trained**
weights are of the whole model, **ImageNet** weights of its backbone, which training starts from.
"""


def write_zoo(config_root: Path) -> Iterator[str]:
    """The document's parts, one data set after the other, and where weights come from.

    Args:
        config_root: the folder ``configs``.
    """
    yield HEADER
    for section in SECTIONS:
        names = config_names(section, config_root)
        rows = [_row(name, section, config_root) for name in names]
        height, width = section.input_size
        headers = [
            "config", "parameters", f"multiply-adds, {height}×{width}",
            *section.figures, "trained by",
        ]  # fmt: skip
        yield f"## {section.title}\n\n{_table(rows, headers)}\n"
    weighty = [name for name in config_names(root=config_root) if name in TRAINED | BACKBONES]
    rows = [
        [_link(name), *(_weights(each.get(name)) for each in (TRAINED, BACKBONES))]
        for name in weighty
    ]
    yield f"{WEIGHTS}\n{_table(rows, ['config', 'trained', 'ImageNet'])}\n"


def _row(name: str, section: DatasetSection, config_root: Path) -> list[str]:
    cost = analyze(read_config(str(config_root / f"{name}.yaml")), section.input_size)
    results = RESULTS.get(name, PublishedResults("–"))
    figures = [getattr(results, FIGURES[figure]) for figure in section.figures]
    source = f"{results.source}; {results.note}" if results.note else results.source
    multiply_adds = _multiply_adds(cost.multiply_adds)
    return [
        _link(name),
        f"{cost.parameters / 1e6:.2f}M",
        f"about {multiply_adds}" if cost.depends_on_data else multiply_adds,
        *("–" if figure is None else f"{figure:.1f}" for figure in figures),
        source,
    ]


def _multiply_adds(count: int) -> str:
    """With one digit after the point, small ones with two that count."""
    return f"{count / 1e9:.1f}B" if count >= 1e8 else f"{count / 1e9:.2g}B"


def _link(name: str) -> str:
    return f"[{name}](../configs/{name}.yaml)"


def _weights(weights: PublicWeights | None) -> str:
    return "–" if weights is None else f"[{weights.source}]({weights.address})"


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)
