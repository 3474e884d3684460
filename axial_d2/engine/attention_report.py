"""docs/dual_and_scale_attention.md: attention against its baselines, and what it looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from axial_d2.analysis.scale_sizes import ObjectWeights
from axial_d2.engine.comparison import seed_cells, seed_headers
from tabulate import tabulate

mpl.use("Agg")
import matplotlib.pyplot as plt

Array = np.ndarray
DOCUMENT = "dual_and_scale_attention.md"
SIZES_FIGURE = "scale_weights_by_size.png"
# Objects are as many in each of these groups by their length.
NUM_GROUPS = 6

HEADER = """# Dual attention and attention to scale on the demo's data

Written by `tools/compare_attention.py` (`--report docs` writes it anew from what was trained).
Every row is trained from scratch with the demo's optimizer and learning rate and evaluated by
Detectron2's `SemSegEvaluator` on images that training never sees; a row differs from the others of
its table in its config alone. One thing was changed after first results: the net that weights the
scales got a norm, since without one AdamW saturated its softmax, so that one scale had a weight of
1 everywhere. Trainings are short: read the spread over the seeds before the difference of two
means. What the papers report for Cityscapes is in [model_zoo.md](model_zoo.md); none of it was
trained here.
"""


@dataclass(frozen=True)
class Row:
    """A config with its results.

    Attributes:
        name, config: what the table calls it, and its file in configs/demo.
        what: a line about it.
        scores: mIoU in percent, by seed.
    """

    name: str
    config: str
    what: str
    scores: Mapping[int, float]


@dataclass(frozen=True)
class Table:
    """Configs that are compared; the first row is the one that the others are baselines of."""

    title: str
    text: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Residual:
    """What the attention layers of a trained DANet contribute.

    Attributes:
        alpha, beta: the learned factors of position and channel attention, 0 at the start.
        score: mIoU in percent.
        score_without: mIoU with both factors put back to 0 after the training.
    """

    alpha: float
    beta: float
    score: float
    score_without: float


def write_report(
    folder: Path,
    tables: Sequence[Table],
    residuals: Mapping[int, Residual],
    sizes: Mapping[int, ObjectWeights],
    pictures: Mapping[str, str],
) -> Path:
    """Writes the document and the figure of sizes.

    Args:
        folder: created where missing; where the pictures are.
        tables: in their order; DANet's first, if it is there.
        residuals: of DANet, by seed; may be empty.
        sizes: weights of scales on things, by seed; may be empty.
        pictures: file in ``folder`` → its caption.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [HEADER, *(_section(table) for table in tables)]
    if residuals:
        parts.insert(2, _residual_section(residuals))
    if sizes:
        draw_sizes(sizes, folder / SIZES_FIGURE)
        parts.append(_sizes_section(sizes))
    parts += [f"{caption}:\n\n![{caption}]({file})\n" for file, caption in pictures.items()]
    document = folder / DOCUMENT
    document.write_text("\n".join(parts), encoding="utf-8")
    return document


def verdict(row: Row, baseline: Row) -> str:
    """In words, on the seeds that both have."""
    seeds = sorted(set(row.scores) & set(baseline.scores))
    if not seeds:
        return f"{baseline.name}: no seed in common yet."
    differences = [row.scores[seed] - baseline.scores[seed] for seed in seeds]
    wins = sum(difference > 0 for difference in differences)
    mean = float(np.mean(differences))
    verb = "beats" if wins == len(seeds) else "does not beat"
    return (
        f"**{row.name} {verb} {baseline.name}** on every seed: {mean:+.1f} mIoU on average, better "
        f"on {wins} of {len(seeds)}."
    )


def _section(table: Table) -> str:
    seeds = sorted({seed for row in table.rows for seed in row.scores})
    headers = ["config", "what it is", *seed_headers(seeds)]
    lines = [
        [f"[{row.name}](../{row.config})", row.what, *seed_cells(row.scores, seeds)]
        for row in table.rows
    ]
    body = tabulate(lines, headers, tablefmt="github", disable_numparse=True)
    first, *baselines = table.rows
    verdicts = "\n".join(f"- {verdict(first, baseline)}" for baseline in baselines)
    return f"## {table.title}\n\n{table.text}\n\n{body}\n\n{verdicts}\n"


def _residual_section(residuals: Mapping[int, Residual]) -> str:
    rows = [
        [seed, f"{r.alpha:+.3f}", f"{r.beta:+.3f}", f"{r.score:.1f}", f"{r.score_without:.1f}"]
        for seed, r in sorted(residuals.items())
    ]
    headers = ["seed", "α", "β", "mIoU", "with α = β = 0 at test"]
    body = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    return f"""## What DANet's attention layers contribute

α and β, the factors of position and channel attention, start at 0. Where they stay small, and mIoU
does not change when they are put back to 0 after the training, the attention layers have hardly
been used, and a difference to the baseline comes from elsewhere, such as the random start.

{body}
"""


def _sizes_section(sizes: Mapping[int, ObjectWeights]) -> str:
    scales = next(iter(sizes.values())).scales
    rows = [
        [
            seed,
            len(each.lengths),
            *(f"{value:+.2f}" for value in each.correlations().values()),
            f"{each.mean_scale_correlation():+.2f}",
        ]
        for seed, each in sorted(sizes.items())
    ]
    headers = ["seed", "things", *(f"scale {scale:g}" for scale in scales), "mean scale"]
    body = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    return f"""## Do the weights of scales follow the sizes of things?

On the images of the second table, whose things differ in length by up to six times: the rank
correlation (Spearman) between a thing's length, the square root of its visible area, and the mean
weight of a scale on its pixels. The paper's claim is that large things are left to small scales: a
positive number for scale {min(scales):g}, a negative one for scale {max(scales):g} and for the mean
of the scales by their weights.

{body}

{_sizes_verdict(sizes)}

![mean weight of each scale by the length of things]({SIZES_FIGURE})
"""


def _sizes_verdict(sizes: Mapping[int, ObjectWeights]) -> str:
    follows = [
        each.correlations()[min(each.scales)] > 0 > each.mean_scale_correlation()
        for each in sizes.values()
    ]
    verb = "follow" if all(follows) else "do not follow on every seed"
    return (
        f"The weights **{verb}** the sizes: in {sum(follows)} of {len(follows)} trainings scale "
        f"{min(next(iter(sizes.values())).scales):g} counts\nmore on larger things and the mean "
        "scale is smaller there."
    )


def draw_sizes(sizes: Mapping[int, ObjectWeights], file: Path) -> None:
    """Mean weight of each scale over the length of things, a thin line for each seed."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    scales = next(iter(sizes.values())).scales
    for index, scale in enumerate(scales):
        curves = [_by_length(each, index) for each in sizes.values()]
        for lengths, weights in curves:
            axes.plot(lengths, weights, color=f"C{index}", alpha=0.35, linewidth=1)
        lengths, weights = np.mean(curves, axis=0)
        axes.plot(lengths, weights, "o-", color=f"C{index}", label=f"scale {scale:g}")
    axes.set_xlabel("length of the thing: square root of its area, pixels")
    axes.set_ylabel("mean weight of the scale")
    axes.set_title("Weights of scales on things of unseen images; thin: single trainings")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _by_length(each: ObjectWeights, index: int) -> tuple[list[float], list[float]]:
    groups = np.array_split(np.argsort(each.lengths), min(NUM_GROUPS, len(each.lengths)))
    lengths = [float(each.lengths[group].mean()) for group in groups]
    return lengths, [float(each.weights[group, index].mean()) for group in groups]
