"""Image folders: classes, labels and counts, and errors for what is missing or wrong."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
from axial_d2.config import add_axial_deeplab_config
from axial_d2.data import DatasetError, register_image_folder, register_known_datasets
from axial_d2.engine.setup import load_config
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from image_folders import write_folder
from torchvision.datasets import ImageFolder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets", {"dog": 2, "cat": 1, "ant": 3})


def test_labels_are_torchvisions(pets: Path) -> None:
    (pets / "cat" / "below").mkdir()
    shutil.copy(pets / "cat" / "0.png", pets / "cat" / "below" / "1.JPEG")
    (pets / "cat" / "notes.txt").write_text("no picture")
    register_image_folder("pets", pets)
    theirs = ImageFolder(str(pets))
    dicts = DatasetCatalog.get("pets")
    assert [(d["file_name"], d["label"]) for d in dicts] == theirs.samples
    assert MetadataCatalog.get("pets").classes == theirs.classes == ["ant", "cat", "dog"]
    assert [d["image_id"] for d in dicts][3:] == [
        "cat/0.png", "cat/below/1.JPEG", "dog/0.png", "dog/1.png",
    ]  # fmt: skip
    assert get_detection_dataset_dicts("pets") == dicts


def test_metadata(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pets.parent)
    register_image_folder("pets", "pets")
    monkeypatch.chdir("/")
    meta = copy.deepcopy(MetadataCatalog.get("pets"))
    assert meta.counts == {"ant": 3, "cat": 1, "dog": 2}
    assert meta.get("counts") is meta.counts
    assert (meta.image_root, meta.evaluator_type) == (str(pets), "classification")
    assert meta.get("thing_classes") is None


def test_given_classes_order_the_labels(pets: Path) -> None:
    register_image_folder("pets", pets, classes=["dog", "ant", "cat"])
    assert [d["label"] for d in DatasetCatalog.get("pets")] == [1, 1, 1, 2, 0, 0]
    assert MetadataCatalog.get("pets").classes == ["dog", "ant", "cat"]
    assert MetadataCatalog.get("pets").counts == {"dog": 2, "ant": 3, "cat": 1}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["ant", "cat"], r"0 \(\) given without a folder, 1 \(dog\) found"),
        (["ant", "cat", "dog", "cow"], r"1 \(cow\) given without a folder, 0 \(\) found"),
        (["ant", "cat", "Dog"], r"1 \(Dog\) given without a folder, 1 \(dog\) found"),
        (["ant", "cat", "dog", "ant"], r"classes has 1 \(ant\) twice"),
        ([], r"classes is empty"),
    ],
)
def test_classes_that_are_not_the_folders(pets: Path, classes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register_image_folder("pets", pets, classes=classes)
    assert "pets" not in DatasetCatalog


def test_a_missing_root(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist.*<class name>/<image>"):
        register_image_folder("pets", tmp_path / "nowhere")


def test_images_without_class_folders(pets: Path) -> None:
    """What ImageNet's archive of validation images unpacks to."""
    with pytest.raises(DatasetError, match=r"cat holds no class folder, but 1 images\."):
        register_image_folder("pets", pets / "cat")


def test_classes_without_images(pets: Path) -> None:
    for name in ("bee", "eel"):
        (pets / name / "below").mkdir(parents=True)
    (pets / "bee" / "notes.txt").write_text("no picture")
    with pytest.raises(DatasetError, match=r"no image for 2 \(bee, eel\) of its 5 classes.*\.webp"):
        register_image_folder("pets", pets)


def test_the_same_again_is_fine_another_is_not(pets: Path, tmp_path: Path) -> None:
    register_image_folder("pets", pets)
    register_image_folder("pets", f"{pets}/", classes=["ant", "cat", "dog"])
    other = write_folder(tmp_path / "other", {"ant": 1})
    with pytest.raises(ValueError, match=r"named 'pets' is already registered.*remove\('pets'\)"):
        register_image_folder("pets", other)
    with pytest.raises(ValueError, match="already registered"):
        register_image_folder("pets", pets, classes=["dog", "cat", "ant"])
    assert MetadataCatalog.get("pets").image_root == str(pets)


def test_folders_that_changed_since(pets: Path) -> None:
    register_image_folder("pets", pets)
    write_folder(pets, {"bee": 1})
    with pytest.raises(DatasetError, match=r"1 \(bee\) found that are not among the classes"):
        DatasetCatalog.get("pets")
    shutil.rmtree(pets)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        DatasetCatalog.get("pets")


def test_a_config_registers_folders(pets: Path) -> None:
    cfg = load_config("", ["DATASETS.IMAGE_FOLDERS", str([["pets", str(pets)]])])
    assert list(cfg.DATASETS.IMAGE_FOLDERS[0]) == ["pets", str(pets)]
    assert len(DatasetCatalog.get("pets")) == 6
    with pytest.raises(ValueError, match=r"IMAGE_FOLDERS has the entry \['pets'\].*each must be"):
        load_config("", ["DATASETS.IMAGE_FOLDERS", "[['pets']]"])
    fresh = get_cfg()
    add_axial_deeplab_config(fresh)
    assert fresh.DATASETS.IMAGE_FOLDERS == []


def test_imagenet_is_found_by_name(tmp_path: Path) -> None:
    register_known_datasets(["imagenet_train", "imagenet_val"], str(tmp_path))
    message = r"imagenet/val does not exist.*DETECTRON2_DATASETS names, now"
    with pytest.raises(FileNotFoundError, match=message):
        DatasetCatalog.get("imagenet_val")
    with pytest.raises(FileNotFoundError, match=message):
        MetadataCatalog.get("imagenet_val").get("classes")
    for split in ("train", "val"):
        write_folder(tmp_path / "imagenet" / split, {"n02": 2, "n01": 1}, suffix=".JPEG")
    register_known_datasets(["imagenet_train", "imagenet_val"], str(tmp_path))
    assert len(DatasetCatalog.get("imagenet_train")) == 3
    assert MetadataCatalog.get("imagenet_val").classes == ["n01", "n02"]


def test_imagenets_validation_images_without_folders(tmp_path: Path) -> None:
    write_folder(tmp_path / "imagenet", {"val": 2}, suffix=".JPEG")
    register_known_datasets(["imagenet_val"], str(tmp_path))
    with pytest.raises(DatasetError, match="holds no class folder, but 2 images"):
        DatasetCatalog.get("imagenet_val")


def test_a_stand_in_gives_way_to_a_registration(pets: Path, tmp_path: Path) -> None:
    register_known_datasets(["imagenet_val"], str(tmp_path / "nowhere"))
    register_image_folder("imagenet_val", pets)
    assert len(DatasetCatalog.get("imagenet_val")) == 6
