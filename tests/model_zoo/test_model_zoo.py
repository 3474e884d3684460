"""Every config by its name, with what others published, and no download that nobody asked for."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from axial_d2 import model_zoo
from axial_d2.engine.setup import load_config
from axial_d2.meta_arch import AxialDeepLab
from axial_d2.model_zoo import config_files
from axial_d2.model_zoo.local_weights import steps
from axial_d2.model_zoo.published import BACKBONES, RESULTS, SECTIONS, TRAINED

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
DEEPLAB2 = "cityscapes/deeplab2/max_deeplab_s_backbone"
# The smallest that needs no data set on disk.
SMALL = "cityscapes/authors/axial_resnet_26s"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("AXIAL_D2_WEIGHTS", str(tmp_path / "weights"))


def test_every_config_is_listed_once() -> None:
    files = {
        str(path.relative_to(CONFIGS).with_suffix(""))
        for path in CONFIGS.rglob("*.yaml")
        if not path.name.startswith("Base")
    }
    names = [model.name for model in model_zoo.list_models()]
    assert sorted(names) == sorted(files)
    assert names == model_zoo.config_names()
    assert names[:4] == [f"coco/axial_deeplab_{size}" for size in ("s", "m", "l", "xl")]


def test_what_is_published_belongs_to_a_config() -> None:
    names = set(model_zoo.config_names())
    assert RESULTS.keys() | TRAINED.keys() | BACKBONES.keys() <= names
    assert {section.folder for section in SECTIONS} == {name.rpartition("/")[0] for name in names}
    models = {model.name: model for model in model_zoo.list_models()}
    assert models[DEEPLAB2].results is not None
    assert models[DEEPLAB2].results.panoptic_quality == 64.5
    trained = models[DEEPLAB2].trained
    assert trained is not None
    assert trained.file == "max_deeplab_s_backbone_os16_axial_deeplab_cityscapes_trainfine.tar.gz"
    assert models[SMALL].trained is None
    assert models[SMALL].backbone is not None
    assert not models[SMALL].backbone.is_tensorflow


def test_weights_are_those_that_the_configs_name() -> None:
    for name, weights in TRAINED.items():
        assert f"# {weights.file}\n" in (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", ["", ".yaml"])
def test_a_config_by_name(suffix: str) -> None:
    file = model_zoo.get_config_file("coco/axial_deeplab_l" + suffix)
    assert Path(file) == CONFIGS / "coco" / "axial_deeplab_l.yaml"
    assert model_zoo.get_config("coco/axial_deeplab_l" + suffix) == load_config(file)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coco/axial_deeplb_l", "did you mean coco/axial_deeplab_"),
        ("???", "there are coco/axial_deeplab_s, "),
        ("../setup", "there is no config '../setup'"),
    ],
)
def test_an_unknown_name_has_neighbours(name: str, words: str) -> None:
    for function in (model_zoo.get_config_file, model_zoo.get_config, model_zoo.get):
        with pytest.raises(ValueError, match="there is no config") as error:
            function(name)
        assert words in str(error.value)


def test_a_cost() -> None:
    (model,) = (model for model in model_zoo.list_models() if model.name == SMALL)
    cost = model.cost()
    assert cost.input_shape[-2:] == (1025, 2049)
    built = model_zoo.get(SMALL, device="meta")
    assert cost.parameters == sum(p.numel() for p in built.parameters())


def test_a_config_and_its_cost_need_no_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "demo/axial_deeplab_demo"
    assert model_zoo.get_config(name).DATASETS.TRAIN == ("axial_d2_demo_train",)
    assert f"the data sets of {name} are not registered: panoptic_json is" in caplog.text
    (model,) = (model for model in model_zoo.list_models() if model.name == name)
    assert model.cost().parameters > 0
    with pytest.raises(FileNotFoundError, match="panoptic_json is"):
        model_zoo.get(name)


def test_a_model_and_weights_from_a_path(tmp_path: Path) -> None:
    model = model_zoo.get(SMALL, device="cpu")
    assert isinstance(model, AxialDeepLab)
    assert model.training
    path = tmp_path / "w.pth"
    torch.save({"model": model.state_dict()}, path)
    again = model_zoo.get(SMALL, pretrained=path, device="cpu")
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert str(path) == model_zoo.get_config(SMALL, pretrained=path).MODEL.WEIGHTS


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_on_this_machine_are_found(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / "weights" / f"{DEEPLAB2}{suffix}"
    file.parent.mkdir(parents=True)
    file.touch()
    assert model_zoo.weights_file(DEEPLAB2) == str(file)
    assert str(file) == model_zoo.get_config(DEEPLAB2, pretrained=True).MODEL.WEIGHTS
    assert model_zoo.get_config(DEEPLAB2).MODEL.WEIGHTS == ""


def test_missing_weights_come_with_the_steps(tmp_path: Path) -> None:
    for function in (model_zoo.weights_file, lambda name: model_zoo.get(name, pretrained=True)):
        with pytest.raises(FileNotFoundError) as error:
            function(DEEPLAB2)
        lines = str(error.value).splitlines()
        archive = TRAINED[DEEPLAB2].file
        assert str(tmp_path / "weights" / f"{DEEPLAB2}.pth") in lines[0]
        assert lines[1] == f"  curl -LO {TRAINED[DEEPLAB2].address}"
        assert lines[2] == f"  tar xf {archive}"
        assert (ROOT / shlex.split(lines[3], comments=True)[0]).is_file()
        python, tool, source, output, option, config = shlex.split(lines[4])
        assert python == ".venv-tensorflow/bin/python"
        assert (ROOT / tool).is_file()
        assert source == archive.removesuffix(".tar.gz")
        assert output == str(tmp_path / "weights" / f"{DEEPLAB2}.pth")
        assert (option, Path(config)) == ("--config-file", CONFIGS / f"{DEEPLAB2}.yaml")


def test_weights_that_are_no_archive_need_no_unpacking() -> None:
    commands = steps(SMALL, BACKBONES[SMALL])
    assert len(commands) == 2
    assert commands[0].startswith("curl -LO ")
    assert commands[1].startswith("tools/convert_weights.py axial26s.pth ")


def test_weights_that_nobody_publishes() -> None:
    with pytest.raises(
        ValueError, match="nobody publishes trained weights for coco/axial"
    ) as error:
        model_zoo.get("coco/axial_deeplab_s", pretrained=True)
    assert all(name in str(error.value) for name in TRAINED)


def test_configs_are_installed_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, built = tmp_path / "source", tmp_path / "built"
    shutil.copytree(ROOT / "configs", source / "configs")
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "axial_d2", source / "axial_d2", ignore=skipped)
    shutil.copy(ROOT / "setup.py", source)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(built)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    installed = built / "axial_d2" / "model_zoo" / "configs"
    expected = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    assert {path.relative_to(installed) for path in installed.rglob("*.yaml")} == expected

    names = model_zoo.config_names()
    monkeypatch.setattr(config_files, "_CHECKOUT", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="the configs are neither in"):
        model_zoo.get_config_file(SMALL)
    monkeypatch.setattr(config_files, "_INSTALLED", installed)
    assert model_zoo.config_names() == names
    assert Path(model_zoo.get_config_file(SMALL)) == installed / f"{SMALL}.yaml"
    assert model_zoo.get_config(SMALL).MODEL.AXIAL_RESNET.STEM == "conv7"
