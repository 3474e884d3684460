"""tools/compare_attention.py, two iterations long; tools/draw_attention.py on what it trained."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from axial_d2.engine.attention_report import Row, verdict
from PIL import Image
from tool_modules import load_tool

ROOT = Path(__file__).parents[2]
SIZES = ["--num-train", "8", "--num-val", "3", "--max-iter", "2", "--seeds", "1"]
KINDS = ["--kinds", "dual_attention", "attention", "average"]


pytestmark = pytest.mark.usefixtures("runs_of_a_tool")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    module = load_tool("compare_attention")
    module.NUM_PICTURES = 1  # type: ignore[attr-defined]
    return module


@pytest.fixture(scope="module")
def trained(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("attention")
    chosen = ["--experiments", "dual_attention", "scale_attention_sizes"]
    assert tool.main(["--output", str(output), *SIZES, *KINDS, *chosen]) == 0
    return output


def test_document_tables_and_pictures(trained: Path) -> None:
    document = (trained / "dual_and_scale_attention.md").read_text(encoding="utf-8")
    for kind in ("dual_attention/dual_attention", "scale_attention/attention"):
        assert f"(../configs/demo/{kind}.yaml)" in document
    assert "2 iterations of 8 crops" in document
    assert "beat average" in document or "beats average" in document
    assert "| scale 0.5" in document
    assert Image.open(trained / "scale_weights_by_size.png").width > 400
    assert "with α = β = 0 at test" in document
    for picture in ("dual_attention", "scale_attention_sizes"):
        assert f"({picture}.jpg)" in document
        assert Image.open(trained / f"{picture}.jpg").width > 400


def test_what_is_trained_is_not_trained_again(
    tool: ModuleType, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = []

    def train(experiment: object, kind: str, *_: object) -> None:
        again.append(kind)
        raise InterruptedError

    monkeypatch.setattr(tool, "train", train)
    monkeypatch.setattr(tool, "report", lambda *_: trained)
    chosen = ["--output", str(trained), "--experiments", "dual_attention"]
    assert tool.main([*chosen, *SIZES, "--kinds", "dual_attention"]) == 0
    assert not again
    with pytest.raises(InterruptedError):
        tool.main([*chosen, *SIZES])
    assert again == ["convolutions"]


def test_a_report_of_nothing(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main(["--output", str(tmp_path), "--report", str(tmp_path), *SIZES]) == 1
    assert "nothing trained" in capsys.readouterr().err


def test_verdicts_say_what_the_numbers_say() -> None:
    ours = Row("ours", "", "", {1: 50.0, 2: 60.0, 3: 70.0})
    worse, mixed = (
        Row("worse", "", "", {1: 49.0, 3: 66.0}),
        Row("mixed", "", "", {1: 51.0, 2: 50.0}),
    )
    assert verdict(ours, worse).startswith("**ours beats worse** on every seed: +2.5 mIoU")
    assert verdict(ours, mixed).startswith("**ours does not beat mixed** on every seed: +4.5")
    assert verdict(ours, mixed).endswith("better on 1 of 2.")


def test_attention_is_drawn(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = load_tool("draw_attention")
    image = sorted((trained / "demo" / "val").glob("*"))[0]
    width, height = Image.open(image).size
    experiments = {
        "dual_attention": ("dual_attention/dual_attention", ["--points", "5,9", "--channels", "3"]),
        "scale_attention_sizes": ("scale_attention/attention", []),
    }
    panels = {"dual_attention": 3, "scale_attention_sizes": 4}
    for name, (config, extra) in experiments.items():
        weights = trained / name / f"{Path(config).name}_1" / "model_final.pth"
        opts = ["MODEL.WEIGHTS", str(weights), "DATASETS.PANOPTIC", "[]", "MODEL.DEVICE", "cpu"]
        arguments = ["--config-file", str(ROOT / "configs" / "demo" / f"{config}.yaml")]
        arguments += ["--input", str(image), "--output", str(tmp_path / name), *extra]
        assert draw.main([*arguments, "--opts", *opts]) == 0
        drawn = Image.open(tmp_path / name / f"{image.stem}.png")
        scale = round(480 / max(height, width))
        assert drawn.width == panels[name] * scale * width + (panels[name] - 1) * 8
        if extra:
            arguments[arguments.index("5,9")] = f"5,{width}"
            assert draw.main([*arguments, "--opts", *opts]) == 1
            assert "lies outside of the image" in capsys.readouterr().err


def test_nothing_to_draw_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    draw = load_tool("draw_attention")
    config = ROOT / "configs" / "demo" / "scale_attention" / "single_scale.yaml"
    arguments = ["--config-file", str(config), "--input", "x", "--output", str(tmp_path), "--opts"]
    opts = ["DATASETS.PANOPTIC", "[]", "MODEL.DEVICE", "cpu"]
    assert draw.main([*arguments, *opts]) == 1
    assert "MODEL.WEIGHTS is empty" in capsys.readouterr().err
    assert draw.main([*arguments, *opts, "MODEL.WEIGHTS", "w.pth"]) == 1
    assert "there is no attention to draw" in capsys.readouterr().err
