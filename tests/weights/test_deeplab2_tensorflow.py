"""Checkpoints that TensorFlow itself wrote; `make test-tensorflow` runs these."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from axial_d2.engine import StrictCheckpointer
from axial_d2.weights.core import WeightsError
from axial_d2.weights.deeplab2_reading import read_checkpoint
from deeplab2_checkpoints import SUFFIX, Arrays
from deeplab2_models import (
    CONFIGS,
    LAYOUTS,
    ON_GRID,
    PANOPTIC,
    TOLERANCE,
    build,
    checkpoint,
    random_image,
    relative_error,
    run,
)
from numpy_deeplab2 import NumpyDeepLab2

tensorflow = pytest.importorskip(
    "tensorflow", reason="TensorFlow is not installed here; make test-tensorflow runs these"
)
from tensorflow_writer import write_checkpoint  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def convert_weights() -> Callable[[list[str]], int]:
    """The tool's main function."""
    spec = importlib.util.spec_from_file_location(
        "tool_convert_weights", ROOT / "tools" / "convert_weights.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def written(arrays: Arrays, folder: Path) -> Path:
    """A folder with the checkpoint in it, as an archive of DeepLab2 unpacks."""
    folder.mkdir()
    write_checkpoint(tensorflow, arrays, folder / "ckpt-60000")
    return folder


@pytest.mark.parametrize("name", ["axial_resnet", "max_deeplab_s"])
def test_every_variable_comes_back_and_adams_slots_without_values(
    name: str, tmp_path: Path
) -> None:
    arrays = checkpoint(name)
    source = read_checkpoint(written(arrays, tmp_path / "archive"))
    for variable, array in arrays.items():
        if not variable.startswith("optimizer/"):
            assert np.array_equal(source[variable].numpy(), array), variable
    others = source.keys() - arrays.keys()
    slots = {name for name in others if "/.OPTIMIZER_SLOT/" in name}
    trained = [n for n, a in arrays.items() if a.ndim and "/moving_" not in n]
    assert len(slots) == 2 * len(trained)
    assert all(source[slot].is_meta for slot in slots)


@pytest.mark.parametrize("name", LAYOUTS)
def test_from_a_file_of_tensorflows_to_deeplab2s_numbers(
    name: str, tmp_path: Path, convert_weights: Callable[[list[str]], int]
) -> None:
    """The tool, then MODEL.WEIGHTS, as docs/weights.md says."""
    layout, output = LAYOUTS[name], tmp_path / "converted.pth"
    folder = written(checkpoint(name), tmp_path / "archive")
    config = ["--config-file", str(CONFIGS / f"{layout.config}.yaml"), *map(str, layout.keys())]
    assert convert_weights([str(folder), str(output), *config]) == 0
    model = build(name)
    StrictCheckpointer(model).load(str(output))
    results = run(model, random_image(ON_GRID), name in PANOPTIC)
    expected = NumpyDeepLab2(checkpoint(name), layout.output_stride)(random_image(ON_GRID))
    outputs = [place for place in TOLERANCE if place in expected]
    assert len(outputs) == (4 if name in PANOPTIC else 1)
    for place in outputs:
        assert relative_error(results[place], expected[place]) < TOLERANCE[place], place


def test_an_imagenet_backbone_needs_no_config(
    tmp_path: Path,
    convert_weights: Callable[[list[str]], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = written(checkpoint("axial_resnet"), tmp_path / "archive")
    assert convert_weights([str(folder), str(tmp_path / "o.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "the backbone is MODEL.BACKBONE.NAME build_axial_resnet_backbone" in printed
    assert "a slot of the optimizer" in printed


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    arrays = {f"encoder/_stem/_conv/kernel{SUFFIX}": np.ones((64, 64), np.float32)}
    folder = written(arrays, tmp_path / "archive")
    (data,) = folder.glob("ckpt*.data-*")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"cannot be read: .*fetch them again"):
        read_checkpoint(folder)
    (folder / "ckpt-60000.index").write_bytes(b"not an index")
    with pytest.raises(WeightsError, match=r"cannot be read: .*fetch them again"):
        read_checkpoint(folder)
