"""tools/export_model.py: files that compute what the model computes, and clear refusals."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from axial_d2.engine import export
from axial_d2.engine.setup import WITHOUT_FILES, load_config
from axial_d2.engine.skeleton import build_without_data
from tool_modules import load_tool
from torch import nn

ROOT = Path(__file__).parents[2]
CLASSIFIER = str(ROOT / "configs" / "demo" / "classification" / "axial.yaml")
TINY = str(ROOT / "tests" / "engine" / "tiny.yaml")
# One block of attention: exporting more takes seconds.
ONE_ATTENTION = ["MODEL.AXIAL_RESNET.STAGE_TYPES", "['axial', 'conv', 'conv', 'conv']"]
ALIGNED = ["MODEL.PANOPTIC_DEEPLAB.ALIGN_CORNERS", "True"]


@pytest.fixture(scope="module")
def export_model() -> ModuleType:
    return load_tool("export_model")


def command(output: Path, *options: str, size: str = "32x48") -> list[str]:
    return ["--config-file", TINY, "--input-size", size, str(output), *options]


def trained_model() -> nn.Module:
    """With norms that have seen something, and blocks that do not start as their shortcut."""
    torch.manual_seed(3)
    model = build_without_data(
        load_config(TINY, [*ONE_ATTENTION, "MODEL.DEVICE", "cpu"]), device="cpu"
    ).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.running_mean, std=0.1)
    return model


def test_onnx_of_the_network_for_any_number_of_images(
    export_model: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    model, weights, file = trained_model(), tmp_path / "model.pth", tmp_path / "model.onnx"
    torch.save({"model": model.state_dict()}, weights)
    arguments = command(file, "--dynamic-batch", *ONE_ATTENTION, "MODEL.WEIGHTS", str(weights))
    assert export_model.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "semantic_logits, center_heatmap, offsets; error " in printed
    assert "random" not in printed

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == list(export.MAP_NAMES)
    images = torch.rand(5, 3, 32, 48) * 255
    with torch.no_grad():
        wanted = model._network_maps((images - model.pixel_mean) / model.pixel_std)
    for given, want in zip(session.run(None, {"images": images.numpy()}), wanted, strict=True):
        torch.testing.assert_close(torch.from_numpy(given), want, rtol=1e-3, atol=1e-4)


def test_pt2_of_a_classifier(
    export_model: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With dropout, which must not be in the file."""
    opts = ["MODEL.AXIAL_RESNET.STAGE_TYPES", "['conv', 'conv', 'conv', 'conv']"]
    opts += ["MODEL.CLASSIFIER.DROPOUT", "0.5"]
    cfg = load_config(CLASSIFIER, [*WITHOUT_FILES, *opts, "MODEL.DEVICE", "cpu"])
    torch.manual_seed(3)
    model = build_without_data(cfg, device="cpu").eval()
    nn.init.normal_(model.linear.weight)
    weights, file = tmp_path / "model.pth", tmp_path / "classifier.pt2"
    torch.save({"model": model.state_dict()}, weights)
    arguments = ["--config-file", CLASSIFIER, "--input-size", "32x48", str(file)]
    assert export_model.main([*arguments, *opts, "MODEL.WEIGHTS", str(weights)]) == 0
    assert "logits; error " in capsys.readouterr().out
    images = torch.rand(1, 3, 32, 48) * 255
    with torch.no_grad():
        (given,) = torch.export.load(file).module()(images).values()
        want = model([{"image": images[0]}])[0]["logits"]
    torch.testing.assert_close(given[0], want, rtol=1e-3, atol=1e-4)


def test_pt2_of_a_backbone(export_model: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "backbone.pt2"
    stages = "['local_ps', 'global', 'conv', 'conv']"
    keys = ["MODEL.AXIAL_RESNET.STAGE_TYPES", stages, "MODEL.AXIAL_RESNET.SPAN", "3"]
    assert export_model.main(command(file, "--part", "backbone", *keys)) == 0
    maps = torch.export.load(file).module()(torch.rand(1, 3, 32, 48))
    shapes = {name: tuple(feature.shape[2:]) for name, feature in maps.items()}
    assert shapes == {"res2": (8, 12), "res3": (4, 6), "res5": (2, 3)}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.pth", [], r"model.pth must end in one of .pt2, .onnx"),
        ("no/model.pt2", [], r"there is no folder .*no for model.pt2"),
        ("model.pt2", ALIGNED, r"multiples of 16 plus 1, such as 33x49"),
        (
            "model.pt2",
            ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"],
            "SemanticSegmentor has no network that ends in maps",
        ),
        ("model.pt2", ["MODEL.WEIGHTS", "none.pth"], "none.pth, which does not exist"),
        ("model.pt2", ["MODEL.NOTHING", "1"], "MODEL.NOTHING"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(
    export_model: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(torch.export, "export", lambda *_: pytest.fail("exported"))
    assert export_model.main(command(tmp_path / name, *options)) == 1
    error = capsys.readouterr().err
    assert error.startswith("export_model: ")
    assert not list(tmp_path.iterdir())
    assert re.search(message, error)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(export.ExportError, match=r"onnx, onnxscript, onnxruntime: pip install"):
        export.check_output(tmp_path / "model.onnx")
    export.check_output(tmp_path / "model.pt2")


def test_a_wrong_file_is_not_passed_over(
    export_model: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_other(program: object, module: export.Exportable, path: Path) -> None:
        path.touch()

    def run_other(path: Path, images: torch.Tensor, names: tuple) -> dict:
        return {name: feature + 0.1 for name, feature in model[0](images).items()}

    model: list[export.Exportable] = []
    monkeypatch.setattr(export_model, "export_program", lambda module, *_: model.append(module))
    monkeypatch.setitem(export.WRITERS, ".pt2", (write_other, run_other))
    assert export_model.main(command(tmp_path / "model.pt2")) == 1
    assert "differs from the model" in capsys.readouterr().err
