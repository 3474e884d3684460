"""tools/prepare_mapillary.py, and tools/train_net.py on what it prepares."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from axial_d2.engine import setup as engine_setup
from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(__file__).parents[2]
TINY_CONFIG = ROOT / "tests" / "engine" / "tiny.yaml"
TRAIN, VAL = "mapillary_vistas_v1.2_panoptic_train", "mapillary_vistas_v1.2_panoptic_val"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


miniature = load(ROOT / "tests" / "data" / "miniature_mapillary.py")
tool = load(ROOT / "tools" / "prepare_mapillary.py")


@pytest.fixture(autouse=True)
def _clean_catalogs() -> Iterator[None]:
    registered = set(DatasetCatalog), set(MetadataCatalog)
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), registered, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)


def run(root: Path, *options: str) -> int:
    return tool.main(["--root", str(root), "--workers", "1", *options])


def test_prepares_both_splits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    miniature.write_release(tmp_path)
    assert run(tmp_path) == 0
    printed = capsys.readouterr().out
    assert f"train: 2 images in {tmp_path}/training/images" in printed
    assert f"prepared in {tmp_path}/validation/v1.2/prepared" in printed
    assert "the official release has 18000 images" in printed
    assert run(tmp_path, "--splits", "val") == 0
    assert "2 of them by an earlier run" in capsys.readouterr().out


def test_check_only_looks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    release = miniature.write_release(tmp_path, "v2.0")
    before = release.files()
    assert run(tmp_path, "--check", "--version", "v2.0") == 0
    assert capsys.readouterr().out == "train: complete\nval: complete\n"
    image = next((tmp_path / "validation" / "images").glob("*.jpg"))
    image.unlink()
    assert run(tmp_path, "--check", "--version", "v2.0") == 1
    assert f"missing image: {image}: does not exist" in capsys.readouterr().out
    assert release.files().keys() < before.keys()


def test_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(tmp_path) == 1
    assert "holds no config_v1.2.json or config.json" in capsys.readouterr().err
    release = miniature.write_release(tmp_path, panoptic=False)
    png = next((release.annotations("train") / "instances").glob("*.png"))
    png.write_bytes(b"no PNG")
    assert run(tmp_path) == 1
    assert f"Instance PNG {png} cannot be decoded" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [["--max-side", "20"], ["--workers", "0"], ["--max-side", "0", "--output", "small"]],
)
def test_bad_command_lines(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path, *options)
    assert exit_.value.code == 2


def test_train_net_finds_a_scaled_copy_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    miniature.write_release(tmp_path / "released", panoptic=False)
    scaled = tmp_path / "datasets" / "mapillary_vistas"
    assert run(tmp_path / "released", "--max-side", "32", "--output", str(scaled)) == 0
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setattr(
        engine_setup, "default_setup", lambda cfg, args: os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    )
    names = {"DATASETS.TRAIN": f"('{TRAIN}',)", "DATASETS.TEST": f"('{VAL}',)"}
    options = {**names, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 4, "SOLVER.MAX_ITER": 1}
    options["OUTPUT_DIR"] = str(tmp_path / "out")
    arguments = argparse.Namespace(
        config_file=str(TINY_CONFIG),
        resume=False,
        eval_only=False,
        opts=[x for pair in options.items() for x in pair],
    )
    load(ROOT / "tools" / "train_net.py").main(arguments)
    measured = (tmp_path / "out" / "metrics.json").read_text()
    assert all(key in measured for key in ("panoptic_seg/PQ", "sem_seg/IoU-Terrain", "segm/AP-Car"))
    assert DatasetCatalog.get(TRAIN)[0]["width"] == 32
