"""Pictures of one class each: a single thing somewhere, or one kind of stuff everywhere.

Textures alone are the easier subject, for networks that learn the forms of things slowly.
"""

from __future__ import annotations

import numpy as np
from axial_d2.data.synthetic import scenes, textures
from axial_d2.data.synthetic.categories import STUFF_NAMES, THING_NAMES

Array = np.ndarray

#: Height and width of a portrait in pixels at image scale 1.
SIZE = 48
#: Radii of things, in pixels at image scale 1.
RADII = (11.0, 20.0)
#: Names of the classes, sorted as the folders are.
PORTRAIT_CLASSES: list[str] = sorted(THING_NAMES + STUFF_NAMES)
#: Names of the textures that pictures may be of, sorted.
TEXTURE_CLASSES: list[str] = ["brick", "checks", "grass", "sky", "stripes", "water"]
# Of patterns, over that of scenes: some six periods fill a picture.
_TEXTURE_SCALE = 1.5


def draw_texture(rng: np.random.Generator, name: str, image_scale: float = 1.0) -> Array:
    """Draws a picture that one texture fills, in two tones of a random colour.

    Args:
        rng: the only source of randomness.
        name: one of ``TEXTURE_CLASSES``.
        image_scale: factor on the picture's size and on the pattern.

    Returns:
        uint8 ``[H, W, 3]``, BGR; the same for the same arguments.
    """
    shape = (round(SIZE * image_scale),) * 2
    color = textures.random_color(rng, 1)[0]
    picture = textures.paint_stuff(rng, name, shape, color, _TEXTURE_SCALE * image_scale)
    return scenes.photograph(rng, picture)


def draw_portrait(rng: np.random.Generator, name: str, image_scale: float = 1.0) -> Array:
    """Draws a picture of a class.

    A thing's position, size, angle and colours are random, as is the stuff behind it; it is seen
    at least for the most part. Stuff fills the whole picture, without a thing. All colours come
    from one distribution.

    Args:
        rng: the only source of randomness.
        name: one of ``PORTRAIT_CLASSES``.
        image_scale: factor on the picture's size and on all patterns and shapes in it.

    Returns:
        uint8 ``[H, W, 3]``, BGR; the same for the same arguments.
    """
    shape = (round(SIZE * image_scale),) * 2
    if name in STUFF_NAMES:
        canvas = scenes.draw_background(rng, shape, 1, image_scale, [name])
    else:
        canvas = scenes.draw_background(rng, shape, int(rng.integers(1, 3)), image_scale)
        scenes.draw_thing(rng, canvas, _place(rng, canvas, name))
    return scenes.photograph(rng, canvas.picture)


def _place(rng: np.random.Generator, canvas: scenes.Canvas, name: str) -> scenes.Placed:
    height, width = canvas.labels.shape
    while True:
        radius = float(np.exp(rng.uniform(*np.log(RADII)))) * canvas.unit
        centre = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
        placed = scenes.place(rng, canvas, name, centre, radius)
        if placed.stamp.inside >= 1 - scenes.MAX_HIDDEN / 2:
            return placed
