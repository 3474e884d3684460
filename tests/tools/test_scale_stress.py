"""tools/scale_stress.py with a tiny untrained model, whose figures need only be there."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from axial_d2.data import make_demo_dataset
from axial_d2.engine import Trainer
from axial_d2.engine.setup import load_config
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from tool_modules import load_tool

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "scale_stress.py"
CONFIG = ROOT / "tests" / "engine" / "tiny.yaml"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("scale_stress")


@pytest.fixture(scope="module", autouse=True)
def _clean_process() -> Iterator[None]:
    """Forgets the data sets and the log files of this module's runs."""
    registered = set(DatasetCatalog), set(MetadataCatalog)
    loggers = {name: logging.getLogger(name) for name in ("detectron2", "fvcore", "axial_d2")}
    state = {
        name: (logger.level, logger.propagate, list(logger.handlers))
        for name, logger in loggers.items()
    }
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), registered, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)
    for name, logger in loggers.items():
        logger.level, logger.propagate, logger.handlers = state[name]


@pytest.fixture(scope="module")
def opts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names the data set and the weights of the tiny config."""
    root = tmp_path_factory.mktemp("tiny")
    make_demo_dataset(root, num_train=1, num_val=2, image_scale=0.5)
    entries = [
        [f"tiny_{split}", f"{root}/{split}", f"{root}/panoptic_{split}",
         f"{root}/annotations/panoptic_{split}.json"]
        for split in ("train", "val")
    ]  # fmt: skip
    opts = ["DATASETS.PANOPTIC", repr(entries)]
    DetectionCheckpointer(Trainer.build_model(load_config(str(CONFIG), opts)), str(root)).save("m")
    return [*opts, "MODEL.WEIGHTS", str(root / "m.pth")]


@dataclass
class Finished:
    output: Path
    again: Callable[..., int]


@pytest.fixture(scope="module")
def first_output(
    tool: ModuleType, opts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("first")
    given = ["--config-file", str(CONFIG), "--output", str(output)]
    assert tool.main([*given, "--ratios", "0.5", "1", *opts]) == 0
    return output


@pytest.fixture
def finished(tool: ModuleType, opts: list[str], first_output: Path, tmp_path: Path) -> Finished:
    output = shutil.copytree(first_output, tmp_path / "stress")

    def run(*arguments: str) -> int:
        given = ["--config-file", str(CONFIG), "--output", str(output)]
        return tool.main([*given, *arguments, *opts])

    return Finished(output, run)


def ratios(output: Path) -> dict[str, list[float]]:
    runs = json.loads((output / "scale_stress.json").read_text())["runs"]
    return {run["label"]: [e["ratio"] for e in run["evaluations"]] for run in runs}


def test_results_figure_and_table(finished: Finished, capsys: pytest.CaptureFixture) -> None:
    assert ratios(finished.output) == {"tiny": [0.5, 1.0]}
    picture = finished.output / "scale_stress.png"
    assert Image.open(picture).size[0] > 1000
    before = picture.read_bytes()
    capsys.readouterr()

    assert finished.again("--ratios", "1", "2", "0.5") == 0
    printed = capsys.readouterr().out
    assert "Not evaluated again: tiny at 0.5, 1" in printed
    assert [line.split("|")[2].strip() for line in printed.splitlines() if "| tiny" in line] == [
        "0.5",
        "1",
        "2",
    ]
    assert ratios(finished.output) == {"tiny": [0.5, 1.0, 2.0]}
    assert picture.read_bytes() != before


def test_two_runs_share_a_figure(finished: Finished) -> None:
    strict = ["MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD", "0.5"]
    one_row = Image.open(finished.output / "scale_stress.png").size[1]
    more = ["--ratios", "1", *strict, "--label", "strict"]
    assert finished.again(*more, "--metric", "mIoU", "--baseline", "tiny") == 0
    assert ratios(finished.output) == {"tiny": [0.5, 1.0], "strict": [1.0]}
    assert Image.open(finished.output / "scale_stress.png").size[1] > 1.5 * one_row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ratios", "0", "1"], "ratio 0"),
        (["--ratios", "1", "twice"], "twice"),
        (["--baseline", "convolution"], "'convolution'"),
        (["--ratios", "1", "MODEL.SPAM", "1"], "MODEL.SPAM"),
        (["--ratios", "1", "DATASETS.TEST", "('pets',)"], "'pets'"),
        (["--ratios", "1", "MODEL.PANOPTIC_DEEPLAB.STUFF_AREA", "1"], "--label"),
        (["--ratios", "0.01"], "stride of 16"),
    ],
)
def test_what_cannot_work_is_said(
    finished: Finished, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    before = (finished.output / "scale_stress.json").read_bytes()
    assert finished.again(*arguments) == 1
    error = capsys.readouterr().err
    assert "scale_stress: " in error
    assert message in error.split("scale_stress: ")[-1]
    assert (finished.output / "scale_stress.json").read_bytes() == before


def test_key_and_value_may_follow_the_ratios(tool: ModuleType) -> None:
    given = ["--config-file", "a.yaml", "--output", "out"]
    args = tool.parse_arguments([*given, "--ratios", "0.5", "1e1", "MODEL.DEVICE", "cpu"])
    assert (args.ratios, args.opts) == ([0.5, 10.0], ["MODEL.DEVICE", "cpu"])
    args = tool.parse_arguments(["--ratios", "-1", *given, "SEED", "3"])
    assert (args.ratios, args.opts) == ([-1.0], ["SEED", "3"])
    args = tool.parse_arguments(given)
    assert args.ratios == list(tool.DEFAULT_RATIOS)
    assert (min(args.ratios), max(args.ratios)) == (0.25, 4.0)
    with pytest.raises(SystemExit):
        tool.parse_arguments([*given, "--ratios", "SEED", "3"])


def test_two_processes_find_what_one_finds(
    first_output: Path, opts: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(TOOL), "--config-file", str(CONFIG), "--output", str(tmp_path)]
    subprocess.run(
        [*command, "--ratios", "0.5", "1", *opts],
        check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        timeout=200,
    )

    def results(output: Path) -> list[dict]:
        (run,) = json.loads((output / "scale_stress.json").read_text())["runs"]
        return [evaluation["results"] for evaluation in run["evaluations"]]

    assert len(results(tmp_path)) == 2
    assert results(tmp_path) == results(first_output)
