"""tools/run_demo.py, two iterations long."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from tool_modules import load_tool

ROOT = Path(__file__).parents[2]
NUM_VAL = 2


@pytest.fixture(scope="module")
def run_demo() -> ModuleType:
    return load_tool("run_demo")


@pytest.fixture(scope="module", autouse=True)
def _clean_process() -> Iterator[None]:
    """Forgets the data sets and the log files of this module's runs."""
    registered = set(DatasetCatalog), set(MetadataCatalog)
    loggers = {name: logging.getLogger(name) for name in ("detectron2", "fvcore")}
    handlers = {name: list(logger.handlers) for name, logger in loggers.items()}
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), registered, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)
    for name, logger in loggers.items():
        logger.handlers = handlers[name]


@dataclass
class Finished:
    output: Path
    console: str
    again: Callable[..., int]


@pytest.fixture(scope="module")
def finished(run_demo: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    output = tmp_path_factory.mktemp("demo")
    arguments = ["--output", str(output), "--num-train", "4", "--num-val", str(NUM_VAL)]
    opts = ["SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"]

    def run(*more: str, opts: list[str] = opts) -> int:
        return run_demo.main([*arguments, "--max-iter", "2", *more, *opts])

    console = io.StringIO()
    with contextlib.redirect_stdout(console):
        assert run() == 0
    return Finished(output, console.getvalue(), run)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def iterations(metrics: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in metrics.read_text().splitlines()]


def test_results_are_those_of_detectron2(finished: Finished) -> None:
    text = (finished.output / "results.json").read_text()
    results = json.loads(text, parse_constant=refuse_constant)
    assert {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"} <= results["panoptic_seg"].keys()
    assert {"mIoU", "IoU-ball", "IoU-sky"} <= results["sem_seg"].keys()
    assert "AP" in results["bbox"]
    assert results["sem_seg"]["mIoU"] is not None


def test_pictures_show_validation_images_and_an_overview(finished: Finished) -> None:
    pictures = {path.name: Image.open(path) for path in (finished.output / "pictures").iterdir()}
    assert sorted(pictures) == ["000001.png", "000002.png", "overview.png"]
    original = Image.open(finished.output / "dataset" / "val" / "000001.jpg")
    assert pictures["000001.png"].width > 3 * original.width


def test_the_console_is_short_and_the_log_is_long(finished: Finished) -> None:
    lines = finished.console.splitlines()
    assert len(lines) < 25
    for figure in ("PQ ", "SQ ", "RQ ", "mIoU ", "mask AP "):
        assert any(line.startswith(figure) for line in lines)
    for name in ("results.json", "pictures", "log.txt"):
        assert any(str(finished.output) in line and name in line for line in lines)
    assert "total_loss" in (finished.output / "training" / "log.txt").read_text()


def test_a_second_run_keeps_the_data_and_trains_anew(finished: Finished) -> None:
    first = finished.output / "dataset" / "train" / "000001.jpg"
    metrics = finished.output / "training" / "metrics.json"
    before = first.stat().st_mtime_ns, iterations(metrics)
    (finished.output / "pictures" / "stale.png").touch()
    assert finished.again() == 0
    assert (first.stat().st_mtime_ns, iterations(metrics)) == before
    assert not (finished.output / "pictures" / "stale.png").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--seed", "5"], "--force"), (["MODEL.SPAM", "1"], "MODEL.SPAM")],
)
def test_what_cannot_work_is_said(
    finished: Finished, more: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert finished.again(*more, opts=[]) == 1
    assert message in capsys.readouterr().err


def test_an_interrupted_data_set_is_drawn_anew_but_no_foreign_one(
    run_demo: ModuleType, tmp_path: Path
) -> None:
    args = argparse.Namespace(seed=0, num_train=1, num_val=1, force=False)
    root = tmp_path / "dataset"
    (root / "train").mkdir(parents=True)
    with pytest.raises(FileExistsError):
        run_demo.build_dataset(args, root)
    (root / ".unfinished").touch()
    run_demo.build_dataset(args, root)
    assert (root / "train" / "000001.jpg").is_file()
    assert not (root / ".unfinished").exists()


def test_not_a_number_becomes_null(run_demo: ModuleType) -> None:
    text = run_demo.as_json({"sem_seg": {"mIoU": 12.5, "IoU-sky": float("nan")}})
    assert json.loads(text, parse_constant=refuse_constant) == {
        "sem_seg": {"mIoU": 12.5, "IoU-sky": None}
    }
