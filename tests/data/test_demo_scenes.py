"""What the demo set promises: variety, decidable ground truth, and no solution by colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from axial_d2.data import read_image, read_panoptic_png, register_demo_dataset
from axial_d2.data.synthetic.scenes import MIN_THING_AREA, draw_scene
from axial_d2.data.synthetic.shapes import render
from detectron2.data import DatasetCatalog
from PIL import Image

NUM_CLASSES, NUM_THINGS = 10, 5


@pytest.fixture
def records(demo_root: Path) -> list[dict[str, Any]]:
    register_demo_dataset(demo_root, "demo")
    return DatasetCatalog.get("demo_train")


def test_every_class_occurs_often(records) -> None:
    pictures = np.zeros(NUM_CLASSES, int)
    for record in records:
        pictures[list({s["category_id"] for s in record["segments_info"]})] += 1
    assert pictures.min() >= len(records) // 8


def test_sizes_and_special_pictures(records) -> None:
    sizes = {(r["height"], r["width"]) for r in records}
    ratios = [w / h for h, w in sizes]
    assert len(sizes) >= 6
    assert min(ratios) < 0.8
    assert max(ratios) > 1.3
    assert any(h % 2 and w % 2 for h, w in sizes)
    without_things = [r for r in records if not r["annotations"]]
    assert 2 <= len(without_things) <= len(records) // 8
    assert sum(len(r["segments_info"]) == 1 for r in records) == 2
    assert {Path(r["file_name"]).suffix for r in records} == {".jpg", ".png"}
    unlabelled = [(read_panoptic_png(r["pan_seg_file_name"]) == 0).mean() for r in records]
    assert 2 <= np.count_nonzero(unlabelled) <= len(records) // 8
    assert max(unlabelled) < 0.1


def test_things_vary_in_size_and_stay_whole(records) -> None:
    diameters = []
    for record in records:
        ids = read_panoptic_png(record["pan_seg_file_name"])
        for segment in record["segments_info"]:
            if segment["isthing"]:
                assert segment["area"] >= MIN_THING_AREA
                mask = (ids == segment["id"]).astype(np.uint8)
                assert cv2.connectedComponents(mask)[0] == 2
                diameters.append(max(segment["bbox"][2:]))
            else:
                assert segment["area"] >= 0.02 * ids.size
    # One in twelve is drawn small: scenes.py.
    assert np.quantile(diameters, 0.05) < 20
    assert np.quantile(diameters, 0.9) > 38
    assert min(diameters) >= 9
    counts = [len(r["annotations"]) for r in records if r["annotations"]]
    assert min(counts) >= 1
    assert max(counts) >= 6


def _touching_pairs(ids: np.ndarray, classes: dict[int, int]) -> int:
    """Pairs of different things of one class that share a border of three pixels or more."""
    borders: dict[tuple[int, int], int] = {}
    for first, second in ((ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])):
        for a, b in zip(first[first != second], second[first != second], strict=True):
            if a in classes and classes[a] == classes.get(b):
                key = (min(a, b), max(a, b))
                borders[key] = borders.get(key, 0) + 1
    return sum(length >= 3 for length in borders.values())


def test_things_of_one_class_touch_in_many_pictures(records) -> None:
    touching = 0
    for record in records:
        classes = {s["id"]: s["category_id"] for s in record["segments_info"] if s["isthing"]}
        touching += _touching_pairs(read_panoptic_png(record["pan_seg_file_name"]), classes) > 0
    assert touching >= len(records) // 4


def _fit_color_classifier(colors: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, float]:
    """Multinomial logistic regression by L-BFGS; weights ``[4, C]`` and accuracy."""
    x = torch.as_tensor(np.c_[colors, np.ones(len(colors))])
    y = torch.nn.functional.one_hot(torch.as_tensor(labels), NUM_CLASSES).double()
    weights = torch.zeros(x.shape[1], NUM_CLASSES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -(y * torch.log_softmax(x @ weights, dim=1)).sum(dim=1).mean()
        value.backward()
        return value

    optimizer.step(loss)
    accuracy = ((x @ weights).argmax(dim=1) == torch.as_tensor(labels)).double().mean()
    return weights.detach(), float(accuracy)


def _mean_iou(weights: torch.Tensor, colors: np.ndarray, labels: np.ndarray) -> float:
    x = torch.as_tensor(np.c_[colors, np.ones(len(colors))])
    predicted = (x @ weights).argmax(dim=1).numpy()
    table = np.bincount(labels * NUM_CLASSES + predicted, minlength=NUM_CLASSES**2)
    table = table.reshape(NUM_CLASSES, NUM_CLASSES)
    hit = np.diag(table)
    return 100 * float((hit / (table.sum(0) + table.sum(1) - hit)).mean())


def _pixels(name: str, per_picture: int = 800) -> tuple[np.ndarray, np.ndarray]:
    """Colours ``[P, 3]`` in [0, 1] and class ids ``[P]`` of random labelled pixels."""
    rng = np.random.default_rng(0)
    colors, labels = [], []
    for record in DatasetCatalog.get(name):
        label = np.asarray(Image.open(record["sem_seg_file_name"])).ravel()
        chosen = rng.choice(np.flatnonzero(label != 255), per_picture)
        colors.append(read_image(record["file_name"], "RGB").reshape(-1, 3)[chosen] / 255)
        labels.append(label[chosen].astype(np.int64))
    return np.concatenate(colors), np.concatenate(labels)


def test_linear_classifier_on_colour_stays_far_below_50_miou(demo_root: Path) -> None:
    register_demo_dataset(demo_root, "demo")
    colors, labels = _pixels("demo_train")
    weights, _ = _fit_color_classifier(colors, labels)
    print(_mean_iou(weights, *_pixels("demo_val")), _)
    assert _mean_iou(weights, *_pixels("demo_val")) < 15  # far below the 50 that is required


def test_the_same_classifier_solves_pictures_whose_classes_are_colours() -> None:
    """The control: the classifier can fail the test above."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, NUM_CLASSES, 20000)
    angle = 2 * np.pi * np.arange(NUM_CLASSES) / NUM_CLASSES
    palette = 0.5 + 0.4 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    colors = palette[labels] + 0.02 * rng.standard_normal((len(labels), 3))
    weights, accuracy = _fit_color_classifier(colors, labels)
    assert accuracy > 0.98
    assert _mean_iou(weights, colors, labels) > 95


def test_image_scale_scales_everything() -> None:
    def draw(scale: float) -> Any:
        return draw_scene(np.random.default_rng([5, 0, 2]), 2, scale)

    small, large = draw(1.0), draw(2.5)
    assert large.image.shape[0] == round(2.5 * small.image.shape[0])
    areas = [
        np.mean([np.count_nonzero(s.labels == k) for k in range(1, len(s.segments) + 1)])
        / s.labels.size
        for s in (small, large)
    ]
    assert 0.3 < areas[1] / areas[0] < 3


def test_shape_masks_have_the_area_of_their_geometry() -> None:
    """Shapes of radius 20; anti-aliased drawing adds a rim of less than a pixel."""
    centre, size, radius = (40.0, 40.0), (80, 80), 20.0
    side = np.sqrt(3) * radius
    area_and_perimeter = {
        "ball": (np.pi * radius**2, 2 * np.pi * radius),
        "triangle": (np.sqrt(3) / 4 * side**2, 3 * side),
        "ring": (0.75 * np.pi * radius**2, 3 * np.pi * radius),
    }
    for name, (area, perimeter) in area_and_perimeter.items():
        stamp = render(name, centre, radius, 0.3, 1.0, size)
        assert area < stamp.mask.sum() < area + perimeter
        assert stamp.inside == 1.0
        assert stamp.hole.any() == (name == "ring")
    half = render("ball", (0.0, 40.0), radius, 0.0, 1.0, size)
    assert half.inside == pytest.approx(0.5, abs=0.04)
    assert half.alpha.shape == half.mask.shape == (half.window[0].stop - half.window[0].start, 23)


def test_things_of_varied_sizes_differ_a_lot_and_others_stay_as_they_were() -> None:
    def lengths(varied_sizes: bool) -> np.ndarray:
        areas = []
        for index in range(0, 40):
            scene = draw_scene(np.random.default_rng(index), index, varied_sizes=varied_sizes)
            areas += [
                int((scene.labels == label).sum())
                for label, segment in enumerate(scene.segments, start=1)
                if segment.isthing
            ]
        return np.sqrt(areas)

    usual, varied = (np.quantile(lengths(kind), (0.1, 0.9)) for kind in (False, True))
    assert usual[1] / usual[0] < 2.5 < varied[1] / varied[0]
