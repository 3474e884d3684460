"""The validator of image folders names each defect, and only those that are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from axial_d2.data import ProblemKind, check_image_folder
from image_folders import write_folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets", {"ant": 2, "bee": 1, "cat": 3})


def test_a_sound_folder_has_no_problem(pets: Path) -> None:
    (pets / "ant" / "notes.txt").write_text("no picture")
    assert check_image_folder(pets) == []


def test_all_defects_are_found_at_once(pets: Path) -> None:
    (pets / "dog" / "below").mkdir(parents=True)
    (pets / "eel").mkdir()
    damaged = pets / "cat" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    (pets / "ant" / "0.png").write_text("no picture")
    problems = check_image_folder(pets)
    assert [(p.kind, p.file) for p in problems] == [
        (ProblemKind.CLASS_WITHOUT_IMAGE, str(pets / "dog")),
        (ProblemKind.CLASS_WITHOUT_IMAGE, str(pets / "eel")),
        (ProblemKind.DAMAGED_IMAGE, str(pets / "ant" / "0.png")),
        (ProblemKind.DAMAGED_IMAGE, str(damaged)),
    ]
    assert "cannot be decoded" in problems[-1].message


def test_no_folder_and_no_class(pets: Path) -> None:
    for root, text in ((pets / "nowhere", "is not a folder"), (pets / "bee", "holds no folder")):
        (problem,) = check_image_folder(root)
        assert (problem.kind, problem.file) == (ProblemKind.EMPTY_DATASET, str(root))
        assert text in problem.message


def test_command_line(pets: Path, check_dataset_main, capsys: pytest.CaptureFixture) -> None:
    assert check_dataset_main(["--image-folder", str(pets)]) == 0
    assert f"{pets}: no problem found." in capsys.readouterr().out
    (pets / "cat" / "1.png").write_text("no picture")
    assert check_dataset_main(["--image-folder", str(pets)]) == 1
    assert "1  image that cannot be decoded" in capsys.readouterr().out
    for more in ([], ["--image-root", "x"], ["--image-folder", "y", "--image-root", "x"]):
        with pytest.raises(SystemExit):
            check_dataset_main(more)
        assert "give --image-folder alone, or --panoptic-json" in capsys.readouterr().err
