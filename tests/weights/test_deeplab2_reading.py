"""TensorFlow checkpoints as files, with a stand-in for TensorFlow, and what is said without it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from axial_d2.weights.core import WeightsError
from axial_d2.weights.deeplab2_reading import read_checkpoint
from deeplab2_checkpoints import SUFFIX


class Reader:
    """What ``tf.train.load_checkpoint`` returns, over a dict."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.read: list[str] = []

    def get_variable_to_shape_map(self) -> dict[str, list[int]]:
        return {name: list(array.shape) for name, array in self.arrays.items()}

    def get_variable_to_dtype_map(self) -> dict[str, str]:
        return {n: "string" if a.dtype.kind == "S" else "number" for n, a in self.arrays.items()}

    def get_tensor(self, name: str) -> np.ndarray:
        self.read.append(name)
        return self.arrays[name]


class OpError(Exception):
    pass


ARRAYS: dict[str, np.ndarray] = {
    f"encoder/_stem/_conv/kernel{SUFFIX}": np.ones((3, 3, 3, 4), np.float32),
    f"encoder/_stem/_conv/kernel/.OPTIMIZER_SLOT/optimizer/m{SUFFIX}": np.ones((3, 3, 3, 4)),
    f"optimizer/iter{SUFFIX}": np.array(7),
    f"global_step{SUFFIX}": np.array(7),
    "_CHECKPOINTABLE_OBJECT_GRAPH": np.array(b"graph"),
}


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """In the place of TensorFlow."""
    made = Reader(ARRAYS)
    train = SimpleNamespace(load_checkpoint=lambda prefix: made)
    errors = SimpleNamespace(OpError=OpError)
    module = SimpleNamespace(train=train, errors=errors, string="string")
    monkeypatch.setitem(sys.modules, "tensorflow", module)
    return made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The prefix of files that only look like a checkpoint."""
    for ending in ("index", "data-00000-of-00001"):
        (tmp_path / f"model_4.5-60000.{ending}").write_bytes(b"")
    (tmp_path / "checkpoint").write_text("model_checkpoint_path: elsewhere")
    return tmp_path / "model_4.5-60000"


def test_numbers_are_read_and_an_optimizer_is_only_listed(reader: Reader, files: Path) -> None:
    tensors = read_checkpoint(files)
    kernel, slot, iterations, step = (name for name in ARRAYS if name.endswith(SUFFIX))
    assert tensors.keys() == {kernel, slot, iterations, step}
    assert torch.equal(tensors[kernel], torch.ones(3, 3, 3, 4))
    assert tensors[slot].is_meta
    assert tensors[slot].shape == (3, 3, 3, 4)
    assert set(reader.read) == {kernel, step}


@pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00001"])
def test_a_checkpoint_is_named_by_its_prefix_or_a_file(
    reader: Reader, files: Path, ending: str
) -> None:
    assert len(read_checkpoint(f"{files}{ending}")) == 4


def test_a_folder_with_one_checkpoint_names_it(reader: Reader, files: Path) -> None:
    assert len(read_checkpoint(files.parent)) == 4
    (files.parent / "other.index").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"2 TensorFlow checkpoints, model_4.5-60000, other"):
        read_checkpoint(files.parent)
    (files.parent / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no TensorFlow checkpoint"):
        read_checkpoint(files.parent / "empty")


def test_a_data_file_without_index_is_not_enough(files: Path) -> None:
    Path(f"{files}.index").unlink()
    with pytest.raises(WeightsError, match=r"60000\.index does not exist"):
        read_checkpoint(f"{files}.data-00000-of-00001")


def test_without_tensorflow_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, files: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(WeightsError, match=r"not installed; to convert it once, run tools/setup_"):
        read_checkpoint(files)


def test_what_tensorflow_cannot_read_is_one_sentence(
    reader: Reader, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> np.ndarray:
        raise OpError("Checksum does not match.\nmore\nlines")

    monkeypatch.setattr(reader, "get_tensor", fail)
    with pytest.raises(WeightsError) as error:
        read_checkpoint(files)
    assert "cannot be read: Checksum does not match. Both its" in str(error.value)
    assert "\n" not in str(error.value)
