"""From a config with weights to results at every ratio, each kept as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import detectron2
import torch
import yaml
from axial_d2.engine.checkpoint import StrictCheckpointer
from axial_d2.engine.checks import check_config
from axial_d2.engine.scale_stress.record import Evaluation, Record, Results, Run
from axial_d2.engine.scale_stress.resize import build_ratio_loader, check_input_sizes
from axial_d2.engine.trainer import Trainer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import Backbone
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import nn

logger = logging.getLogger(__name__)

# Fig. 4 of the paper goes up to 4.0; it tells no other ratio in words.
DEFAULT_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
# Beside MODEL, what predictions depend on.
TEST_KEYS = {
    "INPUT": ("FORMAT", "MIN_SIZE_TEST", "MAX_SIZE_TEST"),
    "TEST": ("DETECTIONS_PER_IMAGE",),
}
# What predictions do not depend on, or which the weights' checksum stands for.
OTHER_MODEL_KEYS = ("WEIGHTS", "DEVICE")


def check_scale_stress(cfg: CfgNode, ratios: Iterable[float]) -> None:
    """Raises ValueError or FileNotFoundError for what cannot work; reads no weights."""
    for ratio in ratios:
        if not 0 < ratio < float("inf"):
            raise ValueError(f"ratio {ratio:g}: ratios must be above 0, such as 0.5 1 2.")
    check_config(cfg)
    names = cfg.DATASETS.TEST
    if len(names) != 1:
        raise ValueError(
            f"DATASETS.TEST is {tuple(names)}; the scale stress test takes one data set at a "
            "time: append DATASETS.TEST \"('name',)\"."
        )
    if cfg.TEST.AUG.ENABLED:
        raise ValueError(
            "TEST.AUG.ENABLED is True, which feeds sizes of its own; the scale stress test "
            "evaluates one size at a time: append TEST.AUG.ENABLED False."
        )
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "MODEL.WEIGHTS is empty, and an untrained model predicts noise; append MODEL.WEIGHTS "
            "path/to/model_final.pth."
        )
    weights = cfg.MODEL.WEIGHTS.partition("?")[0]
    if "://" not in weights and not os.path.isfile(weights):
        raise FileNotFoundError(f"MODEL.WEIGHTS is {weights}, which does not exist.")
    with tempfile.TemporaryDirectory() as folder:
        Trainer.build_evaluator(cfg, names[0], folder)


def open_record(
    cfg: CfgNode, file: Path, *, config_file: str, label: str | None = None, force: bool = False
) -> tuple[Record, Run]:
    """The record in ``file`` (a new one where there is none) and this config's run in it.

    Args:
        cfg: with weights and one test data set.
        file: JSON; not written to.
        config_file: where the config came from; its name is the default label.
        label: for the figure; an earlier run with these weights and settings gets it, too.
        force: whether a different run of the same label is replaced.

    Raises:
        ValueError: the file holds something else, or results on another data set, or a different
            run of this label.
    """
    (name,) = cfg.DATASETS.TEST
    dataset = _describe_dataset(name)
    record = Record.load(file) or Record(dataset)
    if record.dataset != dataset:
        raise ValueError(
            f"{file} holds results on {_in_words(record.dataset)}; now given is "
            f"{_in_words(dataset)}. Results of different data do not go into one figure: give "
            "another --output."
        )
    run = Run(
        label=label or Path(config_file).stem,
        config_file=str(config_file),
        weights=cfg.MODEL.WEIGHTS,
        weights_sha256=_weights_sha256(cfg.MODEL.WEIGHTS),
        settings=settings_of(cfg),
    )
    return record, record.enter(run, rename=label is not None, replace=force)


def evaluate_ratios(
    cfg: CfgNode,
    record: Record,
    run: Run,
    ratios: Iterable[float],
    file: Path,
    *,
    force: bool = False,
) -> list[float]:
    """Evaluates a run of a record at the ratios that it lacks; saves the record after each.

    Runs in all processes of a group; the first one saves.

    Args:
        cfg, record, run, file: see :func:`open_record`.
        ratios: of the size that plain evaluation feeds to the network; ground truth and outputs
            keep their size.
        force: evaluates all of them.

    Returns:
        The ratios that were evaluated now.

    Raises:
        WeightsError: the weights cannot be read or do not fit (a ``ValueError``).
        ValueError: a ratio makes an image smaller than the network's stride, or is too large for
            the GPU's memory.
    """
    todo = sorted(set(ratios) if force else set(ratios) - run.ratios)
    if todo:
        model = Trainer.build_model(cfg)
        StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        (name,) = cfg.DATASETS.TEST
        stride = network_stride(model)
        check_input_sizes(cfg, DatasetCatalog.get(name), todo, stride)
    for ratio in todo:
        logger.info("%s at ratio %g", run.label, ratio)
        start = time.perf_counter()
        results = evaluate_at_ratio(cfg, model, ratio, min_side=stride)
        seconds = round(time.perf_counter() - start, 2)
        run.add(Evaluation(ratio, results, seconds, versions(cfg)))
        if comm.is_main_process():
            record.save(file)
    if not todo and comm.is_main_process():
        record.save(file)  # the label may be new
    return todo


def evaluate_at_ratio(cfg: CfgNode, model: nn.Module, ratio: float, min_side: int = 1) -> Results:
    """What the evaluators of plain evaluation say of a loaded model at one ratio.

    Raises:
        ValueError: the GPU's memory does not suffice for the ratio.
    """
    (name,) = cfg.DATASETS.TEST
    loader = build_ratio_loader(cfg, name, ratio, min_side)
    with tempfile.TemporaryDirectory(prefix="scale_stress") as folder:
        evaluators = Trainer.build_evaluator(cfg, name, folder)
        try:
            return inference_on_dataset(model, loader, evaluators)
        except torch.cuda.OutOfMemoryError as error:
            raise ValueError(
                f"the GPU's memory does not suffice for ratio {ratio:g}; smaller ratios are kept. "
                "Give --ratios without it, or MODEL.DEVICE cpu."
            ) from error


def network_stride(model: nn.Module) -> int:
    """Input pixels to one position of the backbone's coarsest features."""
    backbone = model.backbone
    assert isinstance(backbone, Backbone), type(backbone)
    return max(shape.stride for shape in backbone.output_shape().values())


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """The part of a config that predictions depend on, as plain values."""
    plain = yaml.safe_load(cfg.dump())
    model = {k: v for k, v in plain["MODEL"].items() if k not in OTHER_MODEL_KEYS}
    tested = {part: {key: plain[part][key] for key in keys} for part, keys in TEST_KEYS.items()}
    return {"MODEL": model, **tested}


def versions(cfg: CfgNode) -> dict[str, str]:
    """Of the software, and the device."""
    on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
    try:
        ours = version("axial_d2")
    except PackageNotFoundError:  # used from a source folder
        ours = "not installed"
    return {
        "axial_d2": ours,
        "detectron2": detectron2.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if on_gpu else cfg.MODEL.DEVICE,
    }


def _describe_dataset(name: str) -> dict[str, Any]:
    """Name, number of images and a checksum of all that the data set's dicts say but folders."""
    digest = hashlib.sha256()
    records = DatasetCatalog.get(name)
    for record in records:
        said = {key: value for key, value in record.items() if not key.endswith("file_name")}
        said["file_name"] = os.path.basename(record["file_name"])
        digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    return {"name": name, "num_images": len(records), "sha256": digest.hexdigest()}


def _in_words(dataset: dict[str, Any]) -> str:
    short = dataset["sha256"][:8]
    return f"{dataset['name']} with {dataset['num_images']} images (checksum {short})"


def _weights_sha256(weights: str) -> str:
    digest = hashlib.sha256()
    local = PathManager.get_local_path(weights.partition("?")[0])
    with open(local, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
