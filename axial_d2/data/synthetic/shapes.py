"""Things: five bold outlines whose form, with the pattern they wear, is the class.

A contour is ``[P, 2]`` in (x, y), the shape fitting a circle of radius 1 around the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from axial_d2.data.synthetic.categories import THING_NAMES

Array = np.ndarray
_SUBPIXEL_BITS = 4


def _regular(count: int, radius: float = 1.0, turn: float = 0.0) -> Array:
    angles = np.arange(count) * (2 * np.pi / count) + turn
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> Array:
    points = np.empty((10, 2))
    points[0::2] = _regular(5)
    points[1::2] = _regular(5, 0.54, np.pi / 5)
    return points


def _cross() -> Array:
    arm, half = 0.93, 0.36
    quarter = np.array([[arm, half], [half, half], [half, arm]])
    turns = [quarter]
    for _ in range(3):
        turns.append(turns[-1] @ np.array([[0, 1], [-1, 0]]))
    return np.concatenate(turns)


_CONTOURS: dict[str, list[Array]] = {
    "ball": [_regular(48)],
    "triangle": [_regular(3)],
    "star": [_star()],
    "ring": [_regular(48), _regular(36, 0.44)],
    "cross": [_cross()],
}
assert sorted(_CONTOURS) == sorted(THING_NAMES)


@dataclass(frozen=True)
class Stamp:
    """A rendered shape, cut to the picture.

    Attributes:
        window: rows and columns of the picture that it covers.
        alpha: float32 ``[h, w]`` in [0, 1], anti-aliased coverage in the window.
        mask: bool ``[h, w]``, the pixels that are its ground truth.
        hole: bool ``[h, w]``, the ring's opening; all False for other shapes.
        inside: share of the whole shape that lies inside the picture, in [0, 1].
    """

    window: tuple[slice, slice]
    alpha: Array
    mask: Array
    hole: Array
    inside: float


def _fill(contours: list[Array], shape: tuple[int, int]) -> Array:
    canvas = np.zeros(shape, np.uint8)
    points: list[Array] = [np.round(c * (1 << _SUBPIXEL_BITS)).astype(np.int32) for c in contours]
    cv2.fillPoly(canvas, points, (255,), cv2.LINE_AA, _SUBPIXEL_BITS)
    return canvas


def render(
    name: str,
    centre: tuple[float, float],
    radius: float,
    angle: float,
    stretch: float,
    picture: tuple[int, int],
) -> Stamp:
    """Renders one thing.

    Args:
        name: thing class.
        centre: (x, y) in pixels; may lie outside the picture.
        radius: of the circle around the shape, in pixels.
        angle: rotation in radians.
        stretch: factor along the shape's own x axis, its inverse along y; 1 keeps proportions.
        picture: (height, width).
    """
    cos, sin = np.cos(angle), np.sin(angle)
    rotate = np.array([[cos, sin], [-sin, cos]])
    scale = np.array([stretch, 1 / stretch]) * radius
    reach = int(np.ceil(radius * max(stretch, 1 / stretch))) + 2
    x0, y0 = int(centre[0]) - reach, int(centre[1]) - reach
    origin = np.array([centre[0] - x0, centre[1] - y0])
    contours = [(c * scale) @ rotate + origin for c in _CONTOURS[name]]
    size = 2 * reach + 1
    whole = _fill(contours, (size, size))
    hole = np.zeros((size, size), bool)
    if len(contours) > 1:
        hole = (_fill(contours[1:], (size, size)) >= 128) & (whole < 128)

    top, left = max(0, y0), max(0, x0)
    bottom, right = min(picture[0], y0 + size), min(picture[1], x0 + size)
    cut = (slice(top - y0, max(top, bottom) - y0), slice(left - x0, max(left, right) - x0))
    mask = whole >= 128
    return Stamp(
        window=(slice(top, max(top, bottom)), slice(left, max(left, right))),
        alpha=whole[cut].astype(np.float32) / 255.0,
        mask=mask[cut],
        hole=hole[cut],
        inside=float(mask[cut].sum()) / max(1, int(mask.sum())),
    )
