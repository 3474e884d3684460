"""Panoptic predictions and ground truth as pictures, drawn with Detectron2's ``Visualizer``.

Pictures are RGB arrays. A class has one colour wherever it is drawn, its instances are shades of
it, and small pictures can be enlarged, so that masks and labels are told apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
from axial_d2.data.reading import read_image, read_panoptic_png
from detectron2.data import Metadata
from detectron2.utils.visualizer import VisImage, Visualizer

Array = np.ndarray
Color = Sequence[float]

# How far the instances of a class, largest first, go from its colour to black (< 0) or white.
SHADES = (0.0, -0.35, 0.4, -0.55, 0.65, -0.2, 0.2)
DARK = (0.1, 0.1, 0.1)
LEGIBLE_SIDE = 480
CAPTION_HEIGHT = 28
LABEL_HEIGHT, LABEL_WIDTH = 14, 9  # of a label's letter in pixels, roughly
GAP = 8
LISTED_CLASSES = 5


class PanopticVisualizer(Visualizer):
    """Detectron2's ``Visualizer`` with repeatable shades, in place of random ones, for instances.

    Instances are drawn like stuff, as masks with their holes (Detectron2 fills the holes), and
    every label stands where its segment is widest.
    """

    def __init__(self, image: Array, metadata: Metadata, **options: Any):
        super().__init__(image, metadata, **options)
        self._seen: dict[tuple[float, ...], int] = defaultdict(int)

    def _jitter(self, color: Color) -> Color:
        nth = self._seen[tuple(color)]
        self._seen[tuple(color)] += 1
        return shade(color, SHADES[nth % len(SHADES)])

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: list[str] | None = None,
        masks: Any = None,
        keypoints: Any = None,
        assigned_colors: Sequence[Color] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        if masks is None or boxes is not None or keypoints is not None or assigned_colors is None:
            return super().overlay_instances(
                boxes=boxes,
                labels=labels,
                masks=masks,
                keypoints=keypoints,
                assigned_colors=assigned_colors,
                alpha=alpha,
            )
        texts = labels or [""] * len(masks)
        for mask, text, color in zip(masks, texts, assigned_colors, strict=True):
            self.draw_binary_mask(mask, color, edge_color=DARK, text=text, alpha=alpha)
        return self.output

    def draw_binary_mask(
        self, binary_mask: Array, color: Any = None, *, text: str | None = None, **options: Any
    ) -> VisImage:
        super().draw_binary_mask(binary_mask, color, **options)
        if text and color is not None:
            x, y = _innermost_point(binary_mask)
            margin = min(LABEL_WIDTH * len(text), self.output.width) // 2
            inside = np.clip(x, margin, self.output.width - margin)
            top = np.clip(y - LABEL_HEIGHT // 2, 0, max(self.output.height - LABEL_HEIGHT, 0))
            self.draw_text(text, (inside, top), color=shade(color, 0.5))
        return self.output


# A detector gives many boxes that it hardly believes in.
BOX_SCORE = 0.5


def shade(color: Color, amount: float) -> Color:
    """A colour in 0 … 1, moved by ``amount`` in -1 … 1 towards black (< 0) or white."""
    target = 1.0 if amount > 0 else 0.0
    return tuple(channel + (target - channel) * abs(amount) for channel in color)


def legible_scale(height: int, width: int) -> int:
    """By which whole number to enlarge a picture so that the labels on it can be read; 1 … ."""
    return max(1, round(LEGIBLE_SIDE / max(height, width)))


def confident(prediction: dict[str, Any], min_score: float | None = None) -> dict[str, Any]:
    """A prediction without the things whose "score" is below ``min_score``; the old one stays.

    A panoptic segment without a score is kept, and so is all stuff. By default nothing of a
    panoptic map is left out, and of a detector's boxes those below :data:`BOX_SCORE`.
    """
    result = dict(prediction)
    if min_score is None:
        min_score = 0.0 if "panoptic_seg" in prediction else BOX_SCORE
    ids, segments = result.get("panoptic_seg", (None, None))
    if segments is not None:
        kept = [s for s in segments if not s["isthing"] or s.get("score", 1.0) >= min_score]
        result["panoptic_seg"] = (ids, kept)
    if "instances" in result:
        instances = result["instances"]
        result["instances"] = instances[instances.scores >= min_score]
    return result


def draw_prediction(
    image: Array, prediction: dict[str, Any], metadata: Metadata, *, scale: int = 1
) -> Array:
    """Draws what a model predicts for an image: panoptic segments, else instances, else classes.

    Of a classifier, it writes the likeliest classes with their probabilities into the picture.

    Args:
        image: [H, W, 3] uint8, RGB.
        prediction: of one image, in Detectron2's format; its "panoptic_seg" holds the ids
            [H, W] and ``segments_info`` (or None where ids are class · label divisor + number),
            and a classifier's "logits" are [num_classes]. It is not changed.
        metadata: of the data set, for names and colours.
        scale: enlarges the picture; 1 or more.

    Returns:
        [scale · H, scale · W, 3] uint8, RGB.
    """
    if "panoptic_seg" in prediction:
        ids, segments = prediction["panoptic_seg"]
        return _draw_segments(image, ids.cpu(), segments, metadata, scale)
    if "logits" in prediction:
        return _write_classes(image, prediction["logits"].float().cpu(), metadata, scale)
    visualizer = Visualizer(image, metadata, scale=scale)
    if "instances" in prediction:
        return visualizer.draw_instance_predictions(prediction["instances"].to("cpu")).get_image()
    return visualizer.draw_sem_seg(prediction["sem_seg"].argmax(dim=0).cpu()).get_image()


def draw_ground_truth(dataset_dict: dict[str, Any], metadata: Metadata, *, scale: int = 1) -> Array:
    """Draws the panoptic ground truth of an image, in the colours of :func:`draw_prediction`.

    Args:
        dataset_dict: of one image; "file_name", "pan_seg_file_name" and "segments_info" are read.
        metadata: of the data set, for names and colours.
        scale: enlarges the picture; 1 or more.

    Returns:
        [scale · H, scale · W, 3] uint8, RGB.

    Raises:
        DatasetError: a file is missing or cannot be decoded.
    """
    image = read_image(dataset_dict["file_name"], "RGB")
    ids = torch.as_tensor(read_panoptic_png(dataset_dict["pan_seg_file_name"]))
    return _draw_segments(image, ids, dataset_dict["segments_info"], metadata, scale)


def comparison(
    image: Array,
    prediction: dict[str, Any],
    dataset_dict: dict[str, Any],
    metadata: Metadata,
    *,
    scale: int | None = None,
) -> Array:
    """An image, its ground truth and its prediction side by side, with captions below.

    Args:
        image: [H, W, 3] uint8, RGB.
        prediction, dataset_dict, metadata: of :func:`draw_prediction`, :func:`draw_ground_truth`.
        scale: enlarges each panel; by default as :func:`legible_scale` says.

    Returns:
        [scale · H + CAPTION_HEIGHT, 3 · scale · W + 2 · GAP, 3] uint8, RGB.
    """
    scale = scale or legible_scale(*image.shape[:2])
    panels = {
        "image": _enlarge(image, scale),
        "ground truth": draw_ground_truth(dataset_dict, metadata, scale=scale),
        "prediction": draw_prediction(image, prediction, metadata, scale=scale),
    }
    return side_by_side(panels)


def side_by_side(panels: Mapping[str, Array]) -> Array:
    """Pictures of one size in a row, each with its caption below.

    Args:
        panels: caption → [h, w, 3] uint8.

    Returns:
        [h + CAPTION_HEIGHT, n · w + (n - 1) · GAP, 3] uint8.
    """
    captioned = [
        np.concatenate([panel, _caption(text, panel.shape[1])]) for text, panel in panels.items()
    ]
    gap = np.full((captioned[0].shape[0], GAP, 3), 255, np.uint8)
    row = captioned[:1]
    for picture in captioned[1:]:
        row += [gap, picture]
    return np.concatenate(row, axis=1)


def draw_map(
    image: Array,
    values: torch.Tensor,
    *,
    scale: int = 1,
    limits: tuple[float, float] | None = None,
    point: tuple[int, int] | None = None,
) -> Array:
    """An image in grey under a map of numbers in colours, from dark blue to yellow.

    Args:
        image: [H, W, 3] uint8, RGB.
        values: [H, W].
        scale: enlarges the picture; 1 or more.
        limits: values that get the outermost colours; default the smallest and the largest.
        point: (row, column) of a pixel to mark with a cross.

    Returns:
        [scale · H, scale · W, 3] uint8, RGB.
    """
    low, high = limits or (float(values.min()), float(values.max()))
    share = ((values.float() - low) / max(high - low, 1e-12)).clamp(0, 1).cpu().numpy()
    height, width = (side * scale for side in image.shape[:2])
    share = cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)
    grey = _enlarge(image, scale).mean(axis=2, keepdims=True)
    colours = matplotlib.colormaps["viridis"](share)[..., :3] * 255
    drawn = np.ascontiguousarray((0.35 * grey + 0.65 * colours).astype(np.uint8))
    if point is not None:
        row, column = (int((side + 0.5) * scale) for side in point)
        for colour, thickness in (((0, 0, 0), 5), ((255, 40, 40), 2)):
            size = max(9, min(height, width) // 16)
            cv2.drawMarker(drawn, (column, row), colour, cv2.MARKER_CROSS, size, thickness)
    return drawn


def contact_sheet(pictures: Sequence[Array], columns: int = 2, width: int = 2000) -> Array:
    """Pictures in rows on white, all shrunk alike, each in the middle of its cell.

    Args:
        pictures: one or more of [h, w, 3] uint8.
        columns: cells in a row, all of one width; a row is as high as its highest picture.
        width: of the sheet, in pixels.

    Returns:
        [sum of the rows' heights, columns · (width // columns), 3] uint8.
    """
    cell_width = width // columns
    factor = (cell_width - 2 * GAP) / max(picture.shape[1] for picture in pictures)
    small = [
        cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        for picture in pictures
    ]
    rows = []
    for first in range(0, len(small), columns):
        row = small[first : first + columns]
        height = max(picture.shape[0] for picture in row) + 2 * GAP
        cells = np.full((height, columns * cell_width, 3), 255, np.uint8)
        for column, picture in enumerate(row):
            top = (height - picture.shape[0]) // 2
            left = column * cell_width + (cell_width - picture.shape[1]) // 2
            cells[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        rows.append(cells)
    return np.concatenate(rows)


def _draw_segments(
    image: Array, ids: torch.Tensor, segments: list[dict] | None, metadata: Metadata, scale: int
) -> Array:
    # Enlarged before they are drawn, since the Visualizer places its labels for large pictures.
    visualizer = PanopticVisualizer(_enlarge(image, scale), metadata)
    ids = ids.repeat_interleave(scale, dim=0).repeat_interleave(scale, dim=1)
    segments = segments and [dict(segment) for segment in segments]  # they get an "area"
    return visualizer.draw_panoptic_seg(ids, segments).get_image()


def _write_classes(image: Array, logits: torch.Tensor, metadata: Metadata, scale: int) -> Array:
    visualizer = Visualizer(_enlarge(image, scale), metadata)
    names = metadata.get("classes") or [f"class {index}" for index in range(len(logits))]
    likeliest = logits.softmax(dim=0).topk(min(LISTED_CLASSES, len(logits)))
    lines = [
        f"{names[index]} {probability:.0%}"
        for probability, index in zip(*map(torch.Tensor.tolist, likeliest), strict=True)
    ]
    visualizer.draw_text("\n".join(lines), (GAP, GAP), horizontal_alignment="left")
    return visualizer.output.get_image()


def _innermost_point(mask: Array) -> tuple[int, int]:
    """(x, y) of the pixel of a mask that is farthest from all others and from the border."""
    distances = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)
    y, x = np.unravel_index(distances.argmax(), distances.shape)
    return int(x) - 1, int(y) - 1


def _enlarge(image: Array, scale: int) -> Array:
    if scale == 1:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def _caption(text: str, width: int) -> Array:
    """[CAPTION_HEIGHT, width, 3], black on white."""
    strip = VisImage(np.full((CAPTION_HEIGHT, width, 3), 255, np.uint8))
    strip.ax.text(width / 2, CAPTION_HEIGHT / 2, text, ha="center", va="center", fontsize=12)
    return strip.get_image()
