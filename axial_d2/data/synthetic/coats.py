"""What things wear: a pattern of two random colours whose form, like the outline, is the class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from axial_d2.data.synthetic.categories import THING_NAMES

Array = np.ndarray


def _sectors(x: Array, y: Array, period: float) -> Array:
    return np.sin(3 * np.arctan2(y, x))


def _stripes(x: Array, y: Array, period: float) -> Array:
    return np.sin(2 * np.pi * x / period)


def _core(x: Array, y: Array, period: float) -> Array:
    return 0.45 - np.hypot(x, y)


def _beads(x: Array, y: Array, period: float) -> Array:
    return np.sin(8 * np.arctan2(y, x))


def _dots(x: Array, y: Array, period: float) -> Array:
    return np.sin(2 * np.pi * x / period) * np.sin(2 * np.pi * y / period)


# Positive where the second colour goes; x and y run over -1 … 1 across the shape.
_PATTERNS: dict[str, Callable[[Array, Array, float], Array]] = {
    "ball": _sectors,
    "triangle": _stripes,
    "star": _core,
    "ring": _beads,
    "cross": _dots,
}
assert sorted(_PATTERNS) == sorted(THING_NAMES)
#: Shortest period of a pattern, in pixels at image scale 1.
MIN_PERIOD = 5.0


def pattern(name: str, x: Array, y: Array, radius: float, unit: float) -> Array:
    """Share of the second colour, float32 ``[h, w]`` in [0, 1], with soft edges.

    Args:
        name: thing class.
        x, y: ``[h, w]``, coordinates on the shape, -1 … 1 across it, turned with it.
        radius: of the shape, in pixels.
        unit: image scale.
    """
    period = max(0.5, MIN_PERIOD * unit / radius)
    wave = _PATTERNS[name](x, y, period)
    return np.clip(0.5 + 2.5 * wave, 0, 1).astype(np.float32)
