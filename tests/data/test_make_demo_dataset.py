"""The demo set's files: the same for the same seed, never overwritten unasked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from axial_d2.data import make_demo_dataset
from axial_d2.data.synthetic import SplitPaths
from PIL import Image


def _digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_same_seed_same_bytes_other_seed_other_pictures(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_demo_dataset(tmp_path / folder, seed, num_train=4, num_val=2)
    a, b, c = (_digests(tmp_path / folder) for folder in "abc")
    assert a == b
    assert len(a) == 3 * 6 + 5
    assert sum(path.endswith((".png", ".jpg")) for path in a) == 3 * 6
    assert not set(a.values()) & set(c.values())


def test_larger_set_begins_with_the_same_pictures(tmp_path: Path) -> None:
    make_demo_dataset(tmp_path / "small", 0, num_train=2, num_val=1)
    make_demo_dataset(tmp_path / "large", 0, num_train=4, num_val=3)
    small, large = _digests(tmp_path / "small"), _digests(tmp_path / "large")
    pictures = {path: digest for path, digest in small.items() if "0000" in path}
    assert len(pictures) == 9
    assert pictures.items() <= large.items()


def test_splits_share_no_scene(demo_root: Path) -> None:
    digests = _digests(demo_root)
    for kind in ("", "panoptic_", "semantic_"):
        train = {d for path, d in digests.items() if path.startswith(f"{kind}train/")}
        val = {d for path, d in digests.items() if path.startswith(f"{kind}val/")}
        assert train
        assert val
        # A picture of one stuff class has one of few possible label maps.
        assert len(train & val) <= (2 if kind else 0)


def test_semantic_pngs_hold_contiguous_ids(demo_root: Path) -> None:
    values = set()
    for path in SplitPaths.of(demo_root, "train").semantic.iterdir():
        image = Image.open(path)
        assert image.mode == "L"
        values |= set(np.unique(np.asarray(image)).tolist())
    assert values == {*range(10), 255}


def test_finished_set_is_left_alone(tmp_path: Path) -> None:
    arguments = {"seed": 0, "num_train": 2, "num_val": 1}
    assert make_demo_dataset(tmp_path, **arguments)
    manifest = tmp_path / "manifest.json"
    written = manifest.stat().st_mtime_ns
    assert not make_demo_dataset(tmp_path, **arguments)
    assert manifest.stat().st_mtime_ns == written
    assert make_demo_dataset(tmp_path, **arguments, force=True)


def test_another_or_unfinished_set_needs_force(tmp_path: Path) -> None:
    make_demo_dataset(tmp_path, 0, num_train=3, num_val=1)
    with pytest.raises(FileExistsError, match=r"'num_train': 3.*--force"):
        make_demo_dataset(tmp_path, 0, num_train=2, num_val=1)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(FileExistsError, match=r"no manifest\.json of a finished demo data set"):
        make_demo_dataset(tmp_path, 0, num_train=2, num_val=1)
    keep = tmp_path / "notes.txt"
    keep.write_text("mine")
    assert make_demo_dataset(tmp_path, 0, num_train=2, num_val=1, force=True)
    assert len(list((tmp_path / "train").iterdir())) == 2
    assert keep.read_text() == "mine"


@pytest.mark.parametrize(
    ("argument", "value"),
    [("num_train", 0), ("num_val", -1), ("seed", -1), ("image_scale", 0.1)],
)
def test_bad_arguments(tmp_path: Path, argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} is {value}"):
        make_demo_dataset(tmp_path / "x", **{argument: value})
    assert not (tmp_path / "x").exists()


def test_command_line(tmp_path: Path, make_demo_dataset_main, capsys) -> None:
    options = ["--output", str(tmp_path), "--num-val", "1", "--num-train"]
    assert make_demo_dataset_main([*options, "2"]) == 0
    assert f"train: 2 images in {tmp_path / 'train'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "manifest.json").read_text())["num_train"] == 2
    assert make_demo_dataset_main([*options, "2"]) == 0
    assert "already there" in capsys.readouterr().out
    assert make_demo_dataset_main([*options, "3"]) == 1
    assert "--force" in capsys.readouterr().err
    assert make_demo_dataset_main([*options, "3", "--force"]) == 0
