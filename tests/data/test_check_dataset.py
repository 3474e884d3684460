"""The validator names each kind of defect, and only those that are there."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axial_d2.data import Problem, ProblemKind, check_panoptic_dataset
from axial_d2.data.synthetic import SplitPaths
from PIL import Image

_SEGMENTS = ("annotations", 0, "segments_info")


def _check(handmade, **options: Any) -> list[Problem]:
    handmade.write_json()
    return check_panoptic_dataset(**handmade.arguments, **options)


def _kinds(problems: list[Problem]) -> Counter:
    return Counter(problem.kind for problem in problems)


def test_sound_data_sets_have_no_problem(handmade, demo_root: Path) -> None:
    assert _check(handmade) == []
    for split in ("train", "val"):
        paths = SplitPaths.of(demo_root, split)
        assert check_panoptic_dataset(paths.images, paths.panoptic, paths.panoptic_json) == []


def _break(data: dict[str, Any], value: Any, *path: Any) -> None:
    """Sets the entry at the path; deletes it where the value is None."""
    for key in path[:-1]:
        data = data[key]
    if value is None:
        del data[path[-1]]  # type: ignore[arg-type]
    else:
        data[path[-1]] = value  # type: ignore[index]


@pytest.mark.parametrize(
    ("value", "path", "kinds", "text"),
    [
        (None, ("images",), {"MALFORMED_JSON"}, "'images' must be a list"),
        ([], ("annotations",), {"EMPTY_DATASET"}, "'annotations' is empty"),
        ([], ("images",), {"EMPTY_DATASET"}, "'images' is empty"),
        (None, ("categories", 0, "isthing"), {"MISSING_ISTHING"}, "categories[0]"),
        (None, ("categories", 0, "name"), {"MISSING_KEY", "UNKNOWN_CATEGORY"}, "'name'"),
        (7, ("categories", 0, "isthing"), {"INVALID_VALUE", "UNKNOWN_CATEGORY"}, "isthing is 7"),
        (900, ("categories", 3, "id"), {"DUPLICATE_ID"}, "category id 900"),
        (None, (*_SEGMENTS, 0, "area"), {"MISSING_KEY"}, "'area'"),
        ([1], (*_SEGMENTS, 0, "category_id"), {"INVALID_VALUE"}, "category_id is [1]"),
        (12, (*_SEGMENTS, 0, "id"), {"DUPLICATE_ID", "SEGMENT_NOT_IN_JSON", "BBOX"}, "12"),
        (99, (*_SEGMENTS, 0, "category_id"), {"UNKNOWN_CATEGORY"}, "category_id 99"),
        (9, (*_SEGMENTS, 0, "area"), {"AREA"}, "area 9 in the JSON, 8 in the PNG"),
        ([0, 0, 4, 2], (*_SEGMENTS, 0, "bbox"), {"BBOX"}, "[0, 0, 6, 2] in the PNG"),
        (8, (*_SEGMENTS, 2, "id"), {"SEGMENT_NOT_IN_PNG", "SEGMENT_NOT_IN_JSON"}, "segment 8"),
        (None, (*_SEGMENTS, 3), {"SEGMENT_NOT_IN_JSON"}, "3 pixels of segment 7"),
        (None, ("annotations", 1), {"IMAGE_WITHOUT_ANNOTATION"}, "two.jpg"),
        (None, ("images", 0), {"ANNOTATION_WITHOUT_IMAGE"}, "two.png belongs to unknown image"),
        (5, ("images", 0, "height"), {"IMAGE_SIZE", "PNG_SIZE"}, "is 3 × 5"),
        ("b.jpg", ("images", 0, "file_name"), {"MISSING_IMAGE"}, "b.jpg"),
        ("b.png", ("annotations", 1, "file_name"), {"MISSING_PNG"}, "b.png"),
        (
            "b/one.jpg",
            ("images", 0, "file_name"),
            {"SAME_FILE_NAME", "MISSING_IMAGE"},
            "a/one.png share the name 'one'",
        ),
    ],
)
def test_defects_of_the_json(handmade, value, path, kinds: set[str], text: str) -> None:
    _break(handmade.data, value, *path)
    problems = _check(handmade)
    assert {kind.name for kind in _kinds(problems)} == kinds
    assert any(text in problem.message for problem in problems)


def test_damaged_files(handmade) -> None:
    png, image = handmade.root / "png" / "two.png", handmade.root / "images" / "two.jpg"
    png.write_bytes(png.read_bytes()[:40])
    image.write_bytes(b"no picture")
    problems = _check(handmade)
    assert {(p.kind.name, p.file) for p in problems} == {
        ("DAMAGED_PNG", str(png)),
        ("DAMAGED_IMAGE", str(image)),
    }
    Image.new("L", (5, 3)).save(png)
    assert "mode L; it must be RGB" in _check(handmade)[-1].message


def test_missing_files(handmade) -> None:
    (handmade.root / "png" / "two.png").unlink()
    (handmade.root / "images" / "a" / "one.png").unlink()
    assert _kinds(_check(handmade)) == {ProblemKind.MISSING_PNG: 1, ProblemKind.MISSING_IMAGE: 1}


def test_more_instances_than_the_divisor_holds(handmade) -> None:
    assert _check(handmade, label_divisor=3) == []
    (problem,) = _check(handmade, label_divisor=2)
    assert problem.kind is ProblemKind.TOO_MANY_INSTANCES
    assert "2 instances of 'cat'" in problem.message
    with pytest.raises(ValueError, match="label_divisor is 1"):
        _check(handmade, label_divisor=1)


def test_all_defects_are_found_at_once(handmade) -> None:
    _break(handmade.data, 9, *_SEGMENTS, 0, "area")
    _break(handmade.data, 99, *_SEGMENTS, 1, "category_id")
    handmade.write_png("two.png", np.full((3, 5), 13))
    assert {kind.name for kind in _kinds(_check(handmade))} == {
        "AREA",
        "UNKNOWN_CATEGORY",
        "SEGMENT_NOT_IN_PNG",
        "SEGMENT_NOT_IN_JSON",
    }


def test_command_line(handmade, check_dataset_main, capsys) -> None:
    roots = {f"--{key.replace('_', '-')}": value for key, value in handmade.arguments.items()}
    options = [x for pair in roots.items() for x in pair]
    assert check_dataset_main(options) == 0
    assert "no problem found" in capsys.readouterr().out

    _break(handmade.data, 9, *_SEGMENTS, 0, "area")
    handmade.write_json()
    report = handmade.root / "report.json"
    assert check_dataset_main([*options, "--json", str(report)]) == 1
    printed = capsys.readouterr().out
    assert "1  area that disagrees" in printed
    assert "one.png: segment 70000 has area 9" in printed
    assert [entry["kind"] for entry in json.loads(report.read_text())] == ["area that disagrees"]

    with pytest.raises(SystemExit) as exit_:
        check_dataset_main([*options, "--label-divisor", "1"])
    assert exit_.value.code == 2


def test_examples_are_limited(handmade, check_dataset_main, capsys) -> None:
    for index in range(4):
        _break(handmade.data, 1, *_SEGMENTS, index, "area")
    handmade.write_json()
    roots = {f"--{key.replace('_', '-')}": value for key, value in handmade.arguments.items()}
    check_dataset_main([*(x for pair in roots.items() for x in pair), "--examples", "1"])
    printed = capsys.readouterr().out
    assert printed.count("has area 1 in the JSON") == 1
    assert "… and 3 more" in printed
