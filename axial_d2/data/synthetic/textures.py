"""Stuff: five textures whose pattern is the class and whose colours are drawn at random.

Letters: ``H``, ``W`` picture height and width in pixels. A texture is a float32 map ``[H, W]``
of about [-1, 1] that :func:`colorize` turns into a picture with two colours. ``unit`` scales
every pattern (1 = patterns of 4 to 14 pixels).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from axial_d2.data.synthetic.categories import STUFF_NAMES

Array = np.ndarray


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Array:
    """Float32 noise ``[H, W]`` of unit variance with about ``cells`` bumps along each axis."""
    coarse = rng.standard_normal((cells + 2, cells + 2), dtype=np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def rotated_grid(shape: tuple[int, int], angle: float) -> tuple[Array, Array]:
    """Coordinates in pixels along and across ``angle`` (radians), each float32 ``[H, W]``."""
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    x = np.arange(shape[1], dtype=np.float32)[None, :]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _standardize(field: Array) -> Array:
    return np.clip((field - field.mean()) / (2.0 * field.std() + 1e-6), -1.0, 1.0)


def grass(rng: np.random.Generator, shape: tuple[int, int], unit: float) -> Array:
    """Upright strokes, 9 pixels long and about 2 wide."""
    size = 2 * round(5 * unit) + 1
    kernel = np.zeros((size, size), np.float32)
    lean = rng.uniform(-0.35, 0.35) * size / 2
    middle = size // 2
    start, end = (round(middle - lean), 0), (round(middle + lean), size - 1)
    cv2.line(kernel, start, end, (1.0,), max(1, round(unit)), cv2.LINE_8)
    noise = rng.standard_normal(shape, dtype=np.float32)
    strokes = cv2.filter2D(noise, -1, kernel, borderType=cv2.BORDER_REFLECT)
    return _standardize(cv2.GaussianBlur(strokes, (0, 0), 0.6 * unit)) * 1.1


def brick(rng: np.random.Generator, shape: tuple[int, int], unit: float) -> Array:
    """Courses of staggered bricks of one tone with mortar joints of another."""
    along, across = rotated_grid(shape, rng.uniform(-0.25, 0.25))
    height = rng.uniform(7.0, 9.0) * unit
    width = height * rng.uniform(1.7, 2.0)
    v = (across + rng.uniform(0, height)) / height
    course = np.floor(v)
    u = (along + rng.uniform(0, width)) / width + 0.5 * (course % 2)
    joint = 1.9 * unit
    mortar = ((v - course) * height < joint) | ((u - np.floor(u)) * width < joint)
    return np.where(mortar, np.float32(-1.0), np.float32(0.8))


def water(rng: np.random.Generator, shape: tuple[int, int], unit: float) -> Array:
    """Wavy stripes with a period of 7 to 10 pixels."""
    along, across = rotated_grid(shape, rng.uniform(-0.5, 0.5))
    period = rng.uniform(7.0, 10.0) * unit
    ripple = np.sin(along * (2 * np.pi / (rng.uniform(22, 32) * unit)) + rng.uniform(0, 6.3))
    phase = 2 * np.pi * (across + 2.2 * unit * ripple) / period + rng.uniform(0, 6.3)
    return np.sin(phase.astype(np.float32))


def gravel(rng: np.random.Generator, shape: tuple[int, int], unit: float) -> Array:
    """Round pebbles, about 5 pixels across, on ground of another tone."""
    step = 6.5 * unit
    rows, columns = int(shape[0] / step) + 3, int(shape[1] / step) + 3
    jitter = rng.uniform(-0.24, 0.24, (2, rows, columns)).astype(np.float32)
    radius = rng.uniform(0.30, 0.44, (rows, columns)).astype(np.float32) * step
    y = (np.arange(rows, dtype=np.float32)[:, None] - 1 + jitter[0]) * step
    x = (np.arange(columns, dtype=np.float32)[None, :] - 1 + jitter[1]) * step
    x[1::2] += step / 2
    canvas = np.zeros(shape, np.uint8)
    for cy, cx, r in zip(y.flat, x.flat, radius.flat, strict=True):
        centre = (round(float(cx) * 16), round(float(cy) * 16))
        cv2.circle(canvas, centre, round(float(r) * 16), (255,), -1, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 127.5 - 1.0


def sky(rng: np.random.Generator, shape: tuple[int, int], unit: float) -> Array:
    """A soft gradient with faint clouds; nothing finer than a third of the picture."""
    del unit  # a smooth field has no pattern to scale
    along, _ = rotated_grid(shape, rng.uniform(0, 2 * np.pi))
    gradient = (along - along.min()) / (np.ptp(along) + 1e-6) * 2 - 1
    return 0.55 * gradient + 0.3 * smooth_noise(rng, shape, 3)


def _wave(
    rng: np.random.Generator, shape: tuple[int, int], unit: float, angle: float
) -> tuple[Array, Array]:
    """Sines of one period, 6 to 8 pixels, along and across about ``angle`` (radians)."""
    period = rng.uniform(6.0, 8.0) * unit
    grid = rotated_grid(shape, angle + rng.uniform(-0.15, 0.15))
    first, second = (np.sin(2 * np.pi * x / period + rng.uniform(0, 6.3)) for x in grid)
    return first, second


def stripes(rng: np.random.Generator, shape: tuple[int, int], unit: float) -> Array:
    """Straight diagonal stripes with a period of 6 to 8 pixels."""
    return np.clip(2.5 * _wave(rng, shape, unit, np.pi / 4)[0], -1, 1)


def checks(rng: np.random.Generator, shape: tuple[int, int], unit: float) -> Array:
    """An upright chequerboard with a period of 6 to 8 pixels."""
    along, across = _wave(rng, shape, unit, 0.0)
    return np.clip(2.5 * along * across, -1, 1)


_TEXTURES: dict[str, Callable[[np.random.Generator, tuple[int, int], float], Array]] = {
    "grass": grass,
    "brick": brick,
    "water": water,
    "gravel": gravel,
    "sky": sky,
}
assert sorted(_TEXTURES) == sorted(STUFF_NAMES)
# Textures of no class of the scenes.
_PAINTED = {**_TEXTURES, "stripes": stripes, "checks": checks}


def random_color(rng: np.random.Generator, count: int) -> Array:
    """``count`` colours ``[count, 3]`` in [0, 1], from one distribution for all classes."""
    hsv = np.empty((1, count, 3), np.float32)
    hsv[..., 0] = rng.uniform(0, 360, count)
    hsv[..., 1] = rng.uniform(0.05, 0.75, count)
    hsv[..., 2] = rng.uniform(0.32, 0.92, count)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0]


def colorize(rng: np.random.Generator, texture: Array, color: Array) -> Array:
    """Picture ``[H, W, 3]`` in [0, 1]: ``color`` where the texture is 0, two tones around it."""
    contrast = rng.uniform(0.13, 0.2)
    tint = color + rng.uniform(-0.06, 0.06, 3).astype(np.float32)
    direction = (contrast + 0.25 * (tint - color)).astype(np.float32)
    middle = np.clip(color, 0.16, 0.84)
    if rng.random() < 0.5:
        direction = -direction
    return middle + texture[..., None] * direction


def paint_stuff(
    rng: np.random.Generator, name: str, shape: tuple[int, int], color: Array, unit: float
) -> Array:
    """Picture ``[H, W, 3]`` in about [0, 1], all of it of the class or texture ``name``."""
    return colorize(rng, _PAINTED[name](rng, shape, unit).astype(np.float32), color)
