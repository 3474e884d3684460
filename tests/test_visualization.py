"""Drawings: sizes, colours that agree between ground truth and prediction, nothing mutated."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axial_d2.visualization import (
    comparison,
    confident,
    contact_sheet,
    draw_ground_truth,
    draw_prediction,
    legible_scale,
)
from axial_d2.visualization.pictures import CAPTION_HEIGHT, GAP, _innermost_point
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from panopticapi.utils import id2rgb
from PIL import Image

HEIGHT, WIDTH, SCALE = 24, 40, 10
BALL, SKY, GRASS = 0, 1, 2
# Away from labels, edges and other segments.
IN_SKY, IN_GRASS, IN_FIRST_BALL, IN_SECOND_BALL, IN_HOLE = (
    (2, 37), (22, 2), (9, 5), (16, 29), (10, 9)
)  # fmt: skip
ALPHA = 0.7


@pytest.fixture
def metadata() -> Metadata:
    return Metadata(
        thing_classes=["ball"],
        thing_colors=[[200, 40, 40]],
        thing_dataset_id_to_contiguous_id={10: BALL},
        stuff_classes=["ball", "sky", "grass"],
        stuff_colors=[[200, 40, 40], [40, 40, 200], [40, 200, 40]],
        label_divisor=1000,
    )


def segment_ids(shift: int = 0) -> np.ndarray:
    """Sky (1) above grass (2), a ball with a hole (3), and a smaller ball (4)."""
    ids = np.full((HEIGHT, WIDTH), 1)
    ids[15:] = 2
    ids[3 + shift : 18 + shift, 3:16] = 3
    ids[8 + shift : 13 + shift, 7:12] = 1
    ids[8 + shift : 18 + shift, 22:32] = 4
    return ids


def segments(**scores: float) -> list[dict[str, Any]]:
    classes = {1: (SKY, False), 2: (GRASS, False), 3: (BALL, True), 4: (BALL, True)}
    return [
        {"id": id_, "category_id": category, "isthing": thing} | (scores if thing else {})
        for id_, (category, thing) in classes.items()
    ]


@pytest.fixture
def black() -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def dataset_dict(tmp_path: Path, black: np.ndarray) -> dict[str, Any]:
    Image.fromarray(black).save(tmp_path / "image.png")
    Image.fromarray(id2rgb(segment_ids())).save(tmp_path / "segments.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "pan_seg_file_name": str(tmp_path / "segments.png"),
        "segments_info": segments(),
    }


def prediction(shift: int = 0, **scores: float) -> dict[str, Any]:
    return {"panoptic_seg": (torch.as_tensor(segment_ids(shift)).int(), segments(**scores))}


def color_at(drawing: np.ndarray, pixel: tuple[int, int]) -> np.ndarray:
    row, column = (SCALE * index + SCALE // 2 for index in pixel)
    return drawing[row, column].astype(int)


@pytest.mark.parametrize("scale", [None, 1, 3])
def test_comparison_is_three_panels_and_their_captions(
    scale: int | None, black: np.ndarray, dataset_dict: dict, metadata: Metadata
) -> None:
    picture = comparison(black, prediction(), dataset_dict, metadata, scale=scale)
    enlarged = scale or legible_scale(HEIGHT, WIDTH)
    width = enlarged * WIDTH
    assert picture.dtype == np.uint8
    assert picture.shape == (enlarged * HEIGHT + CAPTION_HEIGHT, 3 * width + 2 * GAP, 3)
    panels = [picture[:, i * (width + GAP) : i * (width + GAP) + width] for i in range(3)]
    assert not panels[0][: enlarged * HEIGHT].any()
    assert panels[1][: enlarged * HEIGHT].any()
    assert np.array_equal(panels[1][: enlarged * HEIGHT], panels[2][: enlarged * HEIGHT])
    for panel in panels:
        assert panel[-CAPTION_HEIGHT:].min() < 128 < panel[-CAPTION_HEIGHT:].mean()


def test_a_class_has_one_color_in_ground_truth_and_prediction(
    black: np.ndarray, dataset_dict: dict, metadata: Metadata
) -> None:
    truth = draw_ground_truth(dataset_dict, metadata, scale=SCALE)
    drawn = draw_prediction(black, prediction(shift=1, score=0.9), metadata, scale=SCALE)
    assert truth.shape == drawn.shape == (SCALE * HEIGHT, SCALE * WIDTH, 3)
    for pixel in (IN_SKY, IN_GRASS, IN_FIRST_BALL, IN_SECOND_BALL):
        assert np.abs(color_at(truth, pixel) - color_at(drawn, pixel)).max() <= 1
    for pixel, category in ((IN_SKY, SKY), (IN_GRASS, GRASS), (IN_FIRST_BALL, BALL)):
        expected = ALPHA * np.array(metadata.stuff_colors[category])
        assert np.abs(color_at(truth, pixel) - expected).max() <= 2


def test_instances_of_a_class_differ(black: np.ndarray, metadata: Metadata) -> None:
    drawn = draw_prediction(black, prediction(), metadata, scale=SCALE)
    first, second = color_at(drawn, IN_FIRST_BALL), color_at(drawn, IN_SECOND_BALL)
    assert np.abs(first - second).sum() > 30
    assert first.argmax() == second.argmax() == 0


def test_a_hole_shows_what_lies_behind(black: np.ndarray, metadata: Metadata) -> None:
    drawn = draw_prediction(black, prediction(), metadata, scale=SCALE)
    assert np.array_equal(color_at(drawn, IN_HOLE), color_at(drawn, IN_SKY))


def test_drawing_repeats_and_changes_nothing(
    black: np.ndarray, dataset_dict: dict, metadata: Metadata
) -> None:
    given, record = prediction(score=0.5), copy.deepcopy(dataset_dict)
    before = copy.deepcopy(given)
    first = comparison(black, given, record, metadata)
    assert np.array_equal(first, comparison(black, given, record, metadata))
    assert record == dataset_dict
    assert given["panoptic_seg"][1] == before["panoptic_seg"][1]
    assert torch.equal(given["panoptic_seg"][0], before["panoptic_seg"][0])


def test_void_stays_undrawn(black: np.ndarray, metadata: Metadata) -> None:
    ids = torch.as_tensor(segment_ids()).int()
    drawn = draw_prediction(black, {"panoptic_seg": (ids, segments()[:1])}, metadata, scale=SCALE)
    assert color_at(drawn, IN_SKY).any()
    assert not color_at(drawn, IN_GRASS).any()
    nothing = draw_prediction(black, {"panoptic_seg": (0 * ids, [])}, metadata, scale=SCALE)
    assert not nothing.any()


def test_ids_may_hold_their_classes(black: np.ndarray, metadata: Metadata) -> None:
    """Detectron2's Panoptic-DeepLab gives no ``segments_info``."""
    classes = np.array([0, SKY, GRASS, BALL, BALL])[segment_ids()]
    ids = torch.as_tensor(1000 * classes + segment_ids() * (classes == BALL)).int()
    drawn = draw_prediction(black, {"panoptic_seg": (ids, None)}, metadata, scale=SCALE)
    expected = draw_prediction(black, prediction(), metadata, scale=SCALE)
    assert np.array_equal(color_at(drawn, IN_GRASS), color_at(expected, IN_GRASS))
    assert np.array_equal(color_at(drawn, IN_FIRST_BALL), color_at(expected, IN_FIRST_BALL))


def test_other_models_are_drawn_too(black: np.ndarray, metadata: Metadata) -> None:
    box = Instances((HEIGHT, WIDTH), pred_boxes=Boxes(torch.tensor([[3.0, 3.0, 16.0, 18.0]])))
    box.scores, box.pred_classes = torch.tensor([0.6]), torch.tensor([BALL])
    drawn = draw_prediction(black, confident({"instances": box}, 0.5), metadata, scale=2)
    assert drawn.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert drawn.any()
    assert not draw_prediction(black, confident({"instances": box}, 0.7), metadata).any()
    assert len(confident({"instances": box})["instances"]) == (box.scores >= 0.5).sum()
    semantic = torch.nn.functional.one_hot(torch.full((HEIGHT, WIDTH), GRASS)).permute(2, 0, 1)
    assert draw_prediction(black, {"sem_seg": semantic.float()}, metadata).any()


def test_confident_leaves_out_things_below_the_score() -> None:
    given = prediction()
    given["panoptic_seg"][1][2]["score"] = 0.3
    given["panoptic_seg"][1][3]["score"] = 0.8
    kept = confident(given, 0.5)["panoptic_seg"][1]
    assert [segment["id"] for segment in kept] == [1, 2, 4]
    assert len(given["panoptic_seg"][1]) == 4
    assert len(confident(given, 0.0)["panoptic_seg"][1]) == 4
    assert len(confident(given)["panoptic_seg"][1]) == 4


def test_labels_stand_inside_their_segments() -> None:
    for id_ in (1, 2, 3, 4):
        mask = segment_ids() == id_
        x, y = _innermost_point(mask)
        assert mask[y - 1 : y + 2, x - 1 : x + 2].all()
    assert _innermost_point(np.ones((9, 21), bool))[1] == 4


def test_contact_sheet_has_a_cell_for_each_picture() -> None:
    pictures = [np.full((30, 60, 3), 50 * i, np.uint8) for i in range(4)]
    pictures.append(np.full((90, 30, 3), 200, np.uint8))
    sheet = contact_sheet(pictures, columns=2, width=2 * (60 + 2 * GAP))
    low, cell = 30 + 2 * GAP, 60 + 2 * GAP
    assert sheet.shape == (2 * low + 90 + 2 * GAP, 2 * cell, 3)
    rows, columns = (low // 2, low + low // 2, 2 * low + 45 + GAP), (cell // 2, cell + cell // 2)
    centers = [sheet[row, column, 0] for row in rows for column in columns]
    assert centers == [0, 50, 100, 150, 200, 255]
