"""Files are read without running code from them, and bad ones give one clear sentence."""

from __future__ import annotations

import argparse
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axial_d2.weights.core import WeightsError
from axial_d2.weights.reading import read_file, read_tensors
from axial_d2.weights.writing import write_tensors
from safetensors.torch import save_file

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(3)}
Save = Callable[[Any, Path], None]


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def same(tensors: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == TENSORS.keys() and all(
        torch.equal(tensors[name], TENSORS[name]) for name in TENSORS
    )


@pytest.mark.parametrize("save", [torch.save, legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"model": TENSORS, "iteration": 7},
        {"epoch": 3, "state_dict": TENSORS, "best_acc1": torch.tensor(77.5), "optimizer": {}},
        {"state_dict": {f"module.{name}": tensor for name, tensor in TENSORS.items()}},
    ],
    ids=["bare", "model", "state_dict", "module"],
)
def test_pytorch_files(content: dict, save: Save, tmp_path: Path) -> None:
    save(content, tmp_path / "w.pth")
    assert same(read_tensors(tmp_path / "w.pth"))


def test_safetensors_files_whatever_their_name(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pth"):
        save_file(TENSORS, tmp_path / name)
        assert same(read_tensors(tmp_path / name))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_written_can_be_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"w{suffix}"
    shared = {"a": TENSORS["a.weight"].T, "b": TENSORS["a.weight"].T}
    write_tensors(shared, path)
    assert all(torch.equal(t, shared[n]) for n, t in read_tensors(path).items())
    assert os.listdir(path.parent) == [path.name]
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
    with pytest.raises(FileExistsError, match="exists; give another name, or --force"):
        write_tensors(TENSORS, path)
    assert read_tensors(path).keys() == shared.keys()
    write_tensors(TENSORS, path, overwrite=True)
    assert same(read_tensors(path))


def test_only_two_suffixes_are_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"w.pkl must end in .pth or .safetensors"):
        write_tensors(TENSORS, tmp_path / "w.pkl")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_of_arrays_on_request(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    content = {"model": arrays, "__author__": "test", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(WeightsError, match=r"is a pickle, which may hold any code.*--allow-pickle"):
        read_tensors(path)
    assert same(read_tensors(path, allow_pickle=True))


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "save",
    [torch.save, legacy, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))],
    ids=["zip", "legacy", "pickle"],
)
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_no_code_runs(save: Save, suffix: str, tmp_path: Path) -> None:
    path, trace = tmp_path / f"w{suffix}", tmp_path / "was_here"
    save({"model": {"a": np.ones(1), "b": Evil(trace)}}, path)
    for allow_pickle in (False, True):
        with pytest.raises(WeightsError, match=str(path)):
            read_tensors(path, allow_pickle)
    assert not trace.exists()
    with path.open("rb") as file:  # the trap works
        if save is torch.save or save is legacy:
            torch.load(path, weights_only=False)
        else:
            pickle.load(file)
    assert trace.exists()


class Call:
    """Is unpickled as what a function returns."""

    def __init__(self, *function_and_arguments: Any):
        self.call = function_and_arguments

    def __reduce__(self) -> tuple:
        return self.call[0], tuple(self.call[1:])


ADDRESSES = b"A" * 8
RECONSTRUCT = np.ones(1).__reduce__()[0]
FORGED = {
    "object array": Call(np.ndarray, (1,), np.dtype("O"), ADDRESSES),
    "array by its class": Call(np.ndarray, (1,), np.dtype("f8"), ADDRESSES),
    "dtype of objects": np.array([None, "text"], dtype=object),
    "dtype with fields": np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
    "text": np.array(["text"]),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
}


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_more_than_numbers_are_refused(kind: str, protocol: int, tmp_path: Path) -> None:
    """NumPy would take the bytes of an array for addresses of objects."""
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": FORGED[kind]}}, protocol=protocol))
    with pytest.raises(WeightsError, match="cannot be read: it is ") as error:
        read_tensors(path, allow_pickle=True)
    assert "\n" not in str(error.value)


def array_state(*state: Any) -> bytes:
    """A pickle of an array with this state."""

    class Forged:
        def __reduce__(self) -> tuple:
            return RECONSTRUCT, (np.ndarray, (0,), b"b"), state

    return pickle.dumps({"a": Forged()}, protocol=2)


@pytest.mark.parametrize(
    "state",
    [
        (1, (3,), np.dtype("f4"), False, b"1234"),
        (1, (10**15,), np.dtype("f4"), False, b"1234"),
        (1, (-1,), np.dtype("f4"), False, b"1234"),
        (1, (1,), "f4", False, b"1234"),
        (1, (1,), np.dtype("f4"), False),
    ],
    ids=["too few bytes", "huge", "negative", "no dtype", "too short a state"],
)
def test_arrays_have_the_bytes_of_their_shape(state: tuple, tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(array_state(*state))
    with pytest.raises(WeightsError, match="cannot be read: it is "):
        read_tensors(path, allow_pickle=True)
    path.write_bytes(array_state(1, (1,), np.dtype("f4"), False, b"1234"))
    assert read_tensors(path, allow_pickle=True)["a"].shape == (1,)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "f2", "i8", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_numbers_of_every_kind(dtype: str, order: str, protocol: int, tmp_path: Path) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)  # type: ignore
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"a": array, "b": [array.T]}, protocol=protocol))
    assert np.array_equal(read_file(path, allow_pickle=True)["a"], array)
    assert np.array_equal(read_file(path, allow_pickle=True)["b"][0], array.T)


def test_an_archive_that_grows_is_refused(tmp_path: Path) -> None:
    plain, packed = tmp_path / "w.pth", tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros(10**6)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name), zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size < 10**4
    with pytest.raises(WeightsError, match=r"bomb.pth cannot.* compressed archive, of 4,0\d\d,\d"):
        read_tensors(packed)
    assert read_tensors(plain)["a"].shape == (10**6,)


def test_python_objects_beside_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": TENSORS, "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(WeightsError, match=r"holds Python objects \(argparse.Namespace\) beside"):
        read_tensors(path)
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"a": argparse.Namespace()}))
    with pytest.raises(WeightsError, match=r"a pickle that asks for argparse.Namespace; only"):
        read_tensors(path, allow_pickle=True)


def html(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><body>Sign in to continue</body></html>")


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def archive(path: Path) -> None:
    with tarfile.open(path, "w:gz") as file:
        file.add(__file__)


def plain_tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.add(__file__)


def another_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "nothing")


def object_array(path: Path) -> None:
    torch.save({"model": {"a": [1, 2]}}, path)


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "it is empty; fetch it again"),
    "web page": (html, "it is a web page, not a checkpoint"),
    "LFS pointer": (lfs_pointer, "it is a Git LFS pointer"),
    "archive": (archive, r"it is an archive; unpack it"),
    "tar": (plain_tar, r"it is an archive; unpack it"),
    "HDF5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is an HDF5 file"),
    "garbage": (lambda path: path.write_bytes(bytes(range(1, 200))), "it is no checkpoint of"),
    "text": (lambda path: path.write_text("404: Not Found"), "it is no checkpoint of PyTorch"),
    "another zip": (another_zip, "it is a zip archive but no PyTorch checkpoint"),
    "garbage pickle": (
        lambda path: path.write_bytes(b"\x80\x02" + bytes(range(200, 256))),
        "it is (a pickle|damaged)",
    ),
    "no tensors": (object_array, r"holds a mapping with \['a'\], which are no tensors"),
    "a list": (lambda path: torch.save([1, 2], path), "holds a list; a checkpoint holds a mapping"),
    "nothing": (lambda path: torch.save({}, path), "holds nothing; a checkpoint holds"),
}


@pytest.mark.parametrize("kind", BAD)
def test_another_file_is_told_by_what_it_is(kind: str, tmp_path: Path) -> None:
    write, words = BAD[kind]
    path = tmp_path / "w.pth"
    write(path)
    for allow_pickle in (False, True):
        with pytest.raises(WeightsError, match=words) as error:
            read_tensors(path, allow_pickle)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("save", ["zip", "legacy", "safetensors", "pickle"])
def test_a_truncated_file_is_told(save: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / ("w.safetensors" if save == "safetensors" else "w.pth")
    tensors = {f"t{n}": torch.randn(40, 5) for n in range(20)}
    if save == "safetensors":
        save_file(tensors, path)
    elif save == "pickle":
        path.write_bytes(pickle.dumps({name: t.numpy() for name, t in tensors.items()}))
    else:
        (torch.save if save == "zip" else legacy)(tensors, path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(WeightsError, match=r"incomplete.*fetch it again") as error:
        read_tensors(path, allow_pickle=True)
    assert str(error.value).startswith(f"{path} cannot be read")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth does not exist"):
        read_tensors(tmp_path / "nowhere.pth")


def test_trainers_state_comes_along(tmp_path: Path) -> None:
    content = {"model": TENSORS, "optimizer": {"state": {0: {"step": 3}}}, "iteration": 9}
    torch.save(content, tmp_path / "w.pth")
    assert read_file(tmp_path / "w.pth")["optimizer"] == content["optimizer"]
