"""The demo's image folder: what is drawn, that colour does not tell the class, and its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from axial_d2.data import (
    make_demo_dataset,
    make_demo_image_folder,
    read_image,
    register_image_folder,
)
from axial_d2.data.synthetic.categories import STUFF_NAMES, THING_NAMES
from axial_d2.data.synthetic.image_folder import SUBJECTS
from axial_d2.data.synthetic.portraits import (
    PORTRAIT_CLASSES,
    TEXTURE_CLASSES,
    draw_portrait,
    draw_texture,
)
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor, nn
from torch.nn import functional as F


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module", params=SUBJECTS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    make_demo_image_folder(root, seed=3, num_train=420, num_val=180, subject=request.param)
    return root


def test_imagenets_layout(folder: Path) -> None:
    register_image_folder("demo", folder / "val")
    dicts, metadata = DatasetCatalog.get("demo"), MetadataCatalog.get("demo")
    (classes,) = (c for subject, (c, _) in SUBJECTS.items() if folder.name.startswith(subject))
    assert metadata.classes == classes == sorted(classes)
    assert set(metadata.counts.values()) == {180 // len(classes)}
    assert len(dicts) == 180
    assert read_image(dicts[0]["file_name"], "RGB").shape == (48, 48, 3)


def test_portraits_have_the_classes_of_the_scenes() -> None:
    assert sorted(THING_NAMES + STUFF_NAMES) == PORTRAIT_CLASSES


def test_same_seed_same_bytes_other_seed_other_pictures(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_demo_image_folder(tmp_path / name, seed=seed, num_train=20, num_val=10)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert len(a) == 31
    assert not set(a.values()) & set(c.values())
    make_demo_image_folder(tmp_path / "d", seed=0, num_train=30, num_val=10)
    del a["manifest.json"]
    assert a.items() <= digests(tmp_path / "d").items()


def test_no_picture_is_there_twice(folder: Path) -> None:
    pictures = digests(folder)
    assert len(set(pictures.values())) == len(pictures) == 601


def mean_colors(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Mean of each channel ``[N, 3]`` of all pictures, and their classes ``[N]``."""
    register_image_folder(split, folder / split)
    features, labels = [], []
    for record in DatasetCatalog.get(split):
        pixels = read_image(record["file_name"], "RGB").reshape(-1, 3) / 255
        features.append(pixels.mean(axis=0))
        labels.append(record["label"])
    return torch.tensor(np.array(features), dtype=torch.float32), torch.tensor(labels)


def fitted_accuracy(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> float:
    """Of a linear classifier, trained to the end, on the second set."""
    mean, std = train[0].mean(dim=0), train[0].std(dim=0)
    linear = nn.Linear(train[0].shape[1], int(train[1].max()) + 1)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(linear((train[0] - mean) / std), train[1])
        value.backward()
        return value

    optimizer.step(loss)
    return (linear((val[0] - mean) / std).argmax(dim=1) == val[1]).float().mean().item()


def test_mean_color_does_not_tell_the_class(folder: Path) -> None:
    train, val = mean_colors(folder, "train"), mean_colors(folder, "val")
    chance = 1 / len(val[1].unique())
    assert fitted_accuracy(train, val) < 1.6 * chance
    # The same classifier finds what is there: a colour that depends on the class.
    for colors, labels in (train, val):
        colors[:, 0] += 0.5 * labels
    assert fitted_accuracy(train, val) > 4 * chance


@pytest.mark.parametrize(
    ("draw", "name"),
    [(draw_portrait, n) for n in PORTRAIT_CLASSES] + [(draw_texture, n) for n in TEXTURE_CLASSES],
)
def test_pictures(draw: Callable[..., np.ndarray], name: str) -> None:
    large = draw(np.random.default_rng(0), name, image_scale=2.0)
    assert (large.shape, large.dtype) == ((96, 96, 3), np.uint8)
    again = draw(np.random.default_rng(0), name, image_scale=2.0)
    assert np.array_equal(large, again)


def test_finished_set_is_left_alone_and_another_needs_force(tmp_path: Path) -> None:
    assert make_demo_image_folder(tmp_path, num_train=10, num_val=10)
    assert not make_demo_image_folder(tmp_path, num_train=10, num_val=10)
    with pytest.raises(FileExistsError, match=r"'num_train': 10.*--force"):
        make_demo_image_folder(tmp_path, num_train=20, num_val=10)
    with pytest.raises(FileExistsError, match=r"'kind': 'image folder'.*--force"):
        make_demo_dataset(tmp_path, num_train=1, num_val=1)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(FileExistsError, match="already holds train, val"):
        make_demo_image_folder(tmp_path, num_train=10, num_val=10)
    assert make_demo_image_folder(tmp_path, num_train=20, num_val=10, force=True)
    assert len(list((tmp_path / "train").rglob("*.png"))) == 20


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("num_train", 9, "num_train is 9; it must be at least 10"),
        ("num_val", 0, "num_val is 0; it must be at least 10"),
        ("seed", -1, "seed is -1"),
        ("image_scale", 0.1, "image_scale is 0.1; .*48 pixels"),
        ("subject", "dogs", r"subject is 'dogs'; .* \('portraits', 'textures'\)"),
    ],
)
def test_bad_arguments(tmp_path: Path, argument: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_demo_image_folder(tmp_path / "x", **{argument: value})
    assert not (tmp_path / "x").exists()


def test_command_line(tmp_path: Path, make_demo_dataset_main, capsys) -> None:
    options = ["--image-folder", "--output", str(tmp_path), "--num-val", "10", "--num-train", "20"]
    assert make_demo_dataset_main(options) == 0
    printed = capsys.readouterr().out
    assert f"train: 20 images in {tmp_path / 'train'}, one folder a class" in printed
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["num_train"], manifest["num_val"], manifest["seed"]) == (20, 10, 0)
    assert make_demo_dataset_main([*options, "--seed", "1"]) == 1
    assert "--force" in capsys.readouterr().err
    textures = ["--image-folder", "textures", *options[1:], "--force"]
    assert make_demo_dataset_main(textures) == 0
    assert sorted(p.name for p in (tmp_path / "val").iterdir()) == TEXTURE_CLASSES
    with pytest.raises(SystemExit):
        make_demo_dataset_main([*options, "--varied-sizes"])
