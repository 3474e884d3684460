"""tools/demo.py with a tiny untrained model, whose drawings need only exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from axial_d2.data import make_demo_dataset
from axial_d2.engine.setup import load_config
from axial_d2.visualization import legible_scale
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image
from tool_modules import load_tool

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "demo" / "axial_deeplab_demo.yaml")


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return load_tool("demo")


@dataclass
class Model:
    images: Path  # three JPEGs
    opts: list[str]  # that name its data set and weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    registered = set(DatasetCatalog), set(MetadataCatalog)
    root = tmp_path_factory.mktemp("model")
    make_demo_dataset(root, num_train=1, num_val=3, image_scale=0.5)
    entries = [
        [f"axial_d2_demo_{split}", f"{root}/{split}", f"{root}/panoptic_{split}",
         f"{root}/annotations/panoptic_{split}.json"]
        for split in ("train", "val")
    ]  # fmt: skip
    opts = ["DATASETS.PANOPTIC", repr(entries), "MODEL.DEVICE", "cpu"]
    network = build_model(load_config(CONFIG, opts))
    DetectionCheckpointer(network, str(root)).save("model")
    yield Model(root / "val", [*opts, "MODEL.WEIGHTS", str(root / "model.pth")])
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), registered, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)


@pytest.fixture
def run(demo: ModuleType, model: Model) -> Callable[..., int]:
    def run(*arguments: str | Path, opts: tuple[str, ...] = ()) -> int:
        given = ["--config-file", CONFIG, *map(str, arguments)]
        return demo.main([*given, "--opts", *model.opts, *opts])

    return run


@pytest.fixture
def unbuilt(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a model is built, though the arguments cannot work."""

    def refuse(_: object) -> None:
        raise AssertionError("the model was built")

    monkeypatch.setattr(demo, "StrictPredictor", refuse)


def test_every_image_of_a_folder_is_drawn(run: Callable, model: Model, tmp_path: Path) -> None:
    assert run("--input", model.images, "--output", tmp_path / "a" / "b") == 0
    originals = sorted(model.images.iterdir())
    assert [file.name for file in sorted((tmp_path / "a" / "b").iterdir())] == [
        file.name for file in originals
    ]
    for file in originals:
        original = Image.open(file)
        drawn = Image.open(tmp_path / "a" / "b" / file.name)
        scale = legible_scale(original.height, original.width)
        assert drawn.size == (scale * original.width, scale * original.height)
        enlarged = np.asarray(original.resize(drawn.size), int)
        assert np.abs(np.asarray(drawn, int) - enlarged).mean() > 10


def test_files_and_patterns_are_drawn_once_each(
    demo: ModuleType, run: Callable, model: Model, tmp_path: Path
) -> None:
    first = model.images / "000001.jpg"
    pattern = str(model.images / "*1.jpg")
    assert demo.find_images([str(first), pattern, str(model.images)])[0] == first
    assert len(demo.find_images([str(first), pattern, str(model.images)])) == 3
    assert run("--input", pattern, "--output", tmp_path / "one.png") == 0
    assert Image.open(tmp_path / "one.png").format == "PNG"


def test_a_damaged_image_is_named_and_the_others_are_drawn(
    run: Callable, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes((model.images / "000001.jpg").read_bytes()[:100])
    good = model.images / "000002.jpg"
    assert run("--input", damaged, good, "--output", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert str(damaged) in captured.err
    assert "1 of 2 images" in captured.out
    assert [file.name for file in (tmp_path / "out").iterdir()] == [good.name]


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize(
    ("arguments", "opts", "message"),
    [
        (["--input", "{tmp}/nothing*.jpg"], [], "matches no file"),
        (["--input", "{tmp}"], [], ".jpeg, .jpg, .png"),
        (["--input", "{images}", "--output", "{tmp}/a.png"], [], "3 images"),
        (["--input", "{images}", "--output", "{tmp}/notes.txt"], [], "is a file"),
        (["--input", "{images}", "--output", "{images}"], [], "overwrite"),
        (["--input", "{images}", "{images}/../train"], [], "both be drawn"),
        (["--input", "{images}"], ["MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty"),
        (["--input", "{images}"], ["MODEL.WEIGHTS", "none.pth"], "none.pth, which does not exist"),
        (["--input", "{images}"], ["DATASETS.TEST", "('pets',)"], "'pets'"),
        (["--input", "{images}"], ["MODEL.SPAM", "1"], "MODEL.SPAM"),
        (["--input", "{images}"], ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"], "NUM_CLASSES"),
        (["--video-input", "{tmp}/none.mp4"], [], "none.mp4 does not exist"),
        (["--video-input", "{tmp}/notes.txt"], [], "no frame"),
        (["--video-input", "{tmp}/notes.txt", "--output", "{tmp}/notes.avi"], [], "exists"),
        (["--video-input", "{tmp}/notes.txt", "--output", "{tmp}/x.mov"], [], ".avi"),
    ],
)
def test_what_cannot_work_is_said_before_the_model_is_built(
    run: Callable,
    model: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    opts: list[str],
    message: str,
) -> None:
    for name in ("notes.txt", "notes.avi"):
        (tmp_path / name).write_text("not a video")
    given = [argument.format(tmp=tmp_path, images=model.images) for argument in arguments]
    if "--output" not in given:
        given += ["--output", str(tmp_path / "out")]
    assert run(*given, opts=tuple(opts)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--input"),
        (["--input", "a.jpg", "--webcam"], "not allowed"),
        (["--webcam", "--output", "out"], "--output"),
        (["--input", "a.jpg", "--confidence-threshold", "2"], "[0, 1]"),
    ],
)
def test_bad_command_lines_are_refused(
    run: Callable, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        run(*arguments)
    assert message in capsys.readouterr().err


def test_weights_of_another_width_are_refused(
    run: Callable, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    opts = ("MODEL.AXIAL_RESNET.WIDTH_MULTIPLIER", "0.5")
    assert run("--input", model.images, "--output", tmp_path / "out", opts=opts) == 1
    assert "does not fit this model" in capsys.readouterr().err


def write_video(file: Path, num_frames: int) -> None:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (96, 64))
    for index in range(num_frames):
        writer.write(np.full((64, 96, 3), 60 * index, np.uint8))
    writer.release()


def test_every_frame_of_a_video_is_drawn(run: Callable, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi", num_frames=3)
    assert run("--video-input", tmp_path / "clip.avi", "--output", tmp_path / "drawn.avi") == 0
    drawn = cv2.VideoCapture(str(tmp_path / "drawn.avi"))
    frames = [drawn.read()[1] for _ in range(3)]
    assert not drawn.read()[0]
    assert drawn.get(cv2.CAP_PROP_FPS) == 5.0
    assert all(frame.shape == (64, 96, 3) for frame in frames)
    assert all(frame.std() > 5 for frame in frames)  # the clip's own are plain


def test_a_window_shows_images_until_it_is_told_to_stop(
    demo: ModuleType, run: Callable, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[np.ndarray] = []

    def show(drawing: np.ndarray, wait_ms: int) -> bool:
        shown.append(drawing)
        return len(shown) < 2

    monkeypatch.setattr(demo, "require_window", lambda: None)
    monkeypatch.setattr(demo, "show", show)
    assert run("--input", model.images) == 0
    assert len(shown) == 2


@pytest.mark.usefixtures("unbuilt")
@pytest.mark.parametrize(
    ("gui", "display", "message"), [("NONE", ":0", "headless"), ("GTK3", "", "no display")]
)
def test_without_a_window_output_is_asked_for(
    run: Callable,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    gui: str,
    display: str,
    message: str,
) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: f"\n  GUI:     {gui}\n")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert run("--input", model.images) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "--output" in error
