"""Curves and a table out of a record."""

from __future__ import annotations

from dataclasses import dataclass

from axial_d2.engine.scale_stress.record import Record, Results
from axial_d2.evaluation import EVALUATORS, model_outputs
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tabulate import tabulate

# Ratio → value in percent, None where an evaluator gave none.
Curve = dict[float, float | None]


@dataclass(frozen=True)
class Metric:
    """A figure's subject.

    Args:
        output: of the model, that it measures.
        task: its group in the evaluators' results.
        panels: key in the group → title of the panel that draws it.
        more: keys that only the table shows.
    """

    output: str
    task: str
    panels: dict[str, str]
    more: tuple[str, ...] = ()


# By preference.
METRICS = {
    "PQ": Metric(
        "panoptic_seg",
        "panoptic_seg",
        {"PQ": "PQ", "PQ_th": r"PQ$^{\mathrm{Th}}$", "PQ_st": r"PQ$^{\mathrm{St}}$"},
        ("SQ", "RQ"),
    ),
    "mIoU": Metric("sem_seg", "sem_seg", {"mIoU": "mIoU"}),
    "mask-AP": Metric("instances", "segm", {"AP": "mask AP"}, ("AP50",)),
    "box-AP": Metric("instances", "bbox", {"AP": "box AP"}, ("AP50",)),
}
# Evaluators of Cityscapes name it otherwise.
ALIASES = {"mIoU": "IoU"}


def pick_metric(cfg: CfgNode, name: str | None = None) -> str:
    """The metric to draw: the given one, or the first of METRICS that is measured.

    Raises:
        ValueError: there is no such metric, or nothing measures it on ``DATASETS.TEST``.
    """
    (dataset_name,) = cfg.DATASETS.TEST
    measured = EVALUATORS[MetadataCatalog.get(dataset_name).evaluator_type]
    outputs = set(model_outputs(cfg)) & measured.keys()
    possible = [metric for metric in METRICS if METRICS[metric].output in outputs]
    if name is None:
        return possible[0]
    if name not in possible:
        raise ValueError(
            f"--metric {name} is not measured for {cfg.MODEL.META_ARCHITECTURE} on "
            f"{dataset_name}; possible are {', '.join(possible)}."
        )
    return name


def curves(record: Record, metric: str) -> dict[str, dict[str, Curve]]:
    """Panel title → label of the run → its curve.

    Raises:
        ValueError: no run has a value of the metric.
    """
    task, panels = METRICS[metric].task, METRICS[metric].panels
    drawn = {
        title: {
            run.label: {e.ratio: _value(e.results, task, key) for e in run.evaluations}
            for run in record.runs
        }
        for key, title in panels.items()
    }
    if all(value is None for runs in drawn.values() for c in runs.values() for value in c.values()):
        raise ValueError(
            f"the evaluators of {record.dataset['name']} gave no {metric}; draw another --metric. "
            "All that they gave is kept."
        )
    return drawn


def check_baseline(record: Record, baseline: str | None) -> None:
    """Raises ValueError where no run has the label ``baseline``."""
    labels = [run.label for run in record.runs]
    if baseline is not None and baseline not in labels:
        raise ValueError(f"--baseline {baseline!r} is none of the labels {labels}.")


def relative_gain(curve: Curve, baseline: Curve) -> Curve:
    """By how much a curve lies above another, in percent of that, where both have a value."""
    gains: Curve = {}
    for ratio, value in curve.items():
        reference = baseline.get(ratio)
        if value is not None and reference:
            gains[ratio] = 100 * (value / reference - 1)
    return gains


def table(record: Record, metric: str) -> str:
    """A line for each run and ratio."""
    task = METRICS[metric].task
    keys = [*METRICS[metric].panels, *METRICS[metric].more]
    lines = [
        [run.label, f"{e.ratio:g}", *(_value(e.results, task, key) for key in keys)]
        for run in record.runs
        for e in run.evaluations
    ]
    return tabulate(
        lines, ["run", "ratio", *keys], "pipe", floatfmt=".2f", missingval="–", disable_numparse=[1]
    )


def _value(results: Results, task: str, key: str) -> float | None:
    found = results.get(task, {})
    return found.get(key, found.get(ALIASES.get(key, key)))
