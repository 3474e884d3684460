"""Composes one demo picture and its ground truth from regions of stuff and a heap of things.

What is drawn stays decidable by eye: a colour is chosen to contrast with what lies under it, no
thing is cut apart or hidden by more than :data:`MAX_HIDDEN`, and a ring keeps its opening.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from axial_d2.data.synthetic import coats, shapes, textures
from axial_d2.data.synthetic.categories import STUFF_NAMES, THING_NAMES
from axial_d2.data.synthetic.regions import draw_regions

Array = np.ndarray

#: (height, width) of the pictures in pixels; two of them odd on purpose.
SIZES: list[tuple[int, int]] = [
    (96, 128),
    (128, 96),
    (112, 112),
    (96, 144),
    (128, 128),
    (101, 127),
    (144, 104),
    (117, 139),
]
#: Largest share of a thing that others, or the picture's edge, may hide.
MAX_HIDDEN = 0.35
#: Smallest visible area of a thing, in pixels at image scale 1.
MIN_THING_AREA = 60
#: Radii of things, in pixels at image scale 1, in scenes of varied sizes.
VARIED_RADII = (7.5, 48.0)
#: Smallest visible area of a class of stuff, as a share of the picture.
MIN_STUFF_SHARE = 0.05


@dataclass
class Segment:
    """A segment of the ground truth: ``name`` of its class, whether it is a thing."""

    name: str
    isthing: bool


@dataclass
class Scene:
    """A picture with its ground truth.

    Attributes:
        image: uint8 ``[H, W, 3]``, BGR.
        labels: int32 ``[H, W]``; 0 is unlabelled, ``k`` is ``segments[k - 1]``.
        segments: what the labels mean; each has at least one pixel.
    """

    image: Array
    labels: Array
    segments: list[Segment]


@dataclass
class Placed:
    """A thing in its place: ``centre`` (x, y) and ``radius`` in pixels, ``angle`` in radians."""

    name: str
    centre: tuple[float, float]
    radius: float
    angle: float
    stamp: shapes.Stamp


@dataclass
class Canvas:
    """A picture being drawn, float ``[H, W, 3]``, with its ground truth as in ``Scene``."""

    picture: Array
    labels: Array
    segments: list[Segment]
    things: dict[int, Placed] = field(default_factory=dict)
    unit: float = 1.0
    light: float = 0.0


def _distinct_colors(rng: np.random.Generator, count: int, distance: float) -> Array:
    """Colours ``[count, 3]`` that lie ``distance`` or more apart (in [0, 1] BGR)."""
    while True:
        colors = textures.random_color(rng, count)
        gaps = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
        if count == 1 or gaps[np.triu_indices(count, 1)].min() >= distance:
            return colors


def draw_background(
    rng: np.random.Generator,
    shape: tuple[int, int],
    count: int,
    unit: float,
    names: list[str] | None = None,
) -> Canvas:
    """``count`` regions of stuff: of random classes, all different, unless ``names`` are given."""
    regions = draw_regions(rng, shape, count)
    if names is None:
        names = [STUFF_NAMES[i] for i in rng.permutation(len(STUFF_NAMES))[:count]]
    colors = _distinct_colors(rng, count, 0.22)
    picture = np.empty((*shape, 3), np.float32)
    for k, name in enumerate(names):
        stuff = textures.paint_stuff(rng, name, shape, colors[k], unit)
        inside = regions == k
        picture[inside] = stuff[inside]
    segments = [Segment(name, isthing=False) for name in names]
    light = float(rng.uniform(0, 2 * np.pi))
    return Canvas(picture, regions + 1, segments, unit=unit, light=light)


def _covers_too_much(canvas: Canvas, stamp: shapes.Stamp) -> bool:
    """Whether drawing the stamp would leave something beneath it undecidable."""
    window = canvas.labels[stamp.window]
    for label in np.unique(window[stamp.mask]):
        remaining = canvas.labels == label
        remaining[stamp.window] &= ~stamp.mask
        area = int(remaining.sum())
        placed = canvas.things.get(int(label))
        if placed is None:
            if area < MIN_STUFF_SHARE * remaining.size:
                return True
            continue
        whole = int(placed.stamp.mask.sum()) / placed.stamp.inside
        if area < max((1 - MAX_HIDDEN) * whole, MIN_THING_AREA * canvas.unit**2):
            return True
        if cv2.connectedComponents(remaining.astype(np.uint8), connectivity=4)[0] != 2:
            return True
    return _fills_a_hole(canvas, stamp)


def _fills_a_hole(canvas: Canvas, stamp: shapes.Stamp) -> bool:
    """Whether a ring, the stamp or one beneath it, would lose its opening to another thing."""
    is_thing = canvas.labels > sum(not s.isthing for s in canvas.segments)
    if stamp.hole.any() and is_thing[stamp.window][stamp.hole].mean() > 0.4:
        return True
    is_thing[stamp.window] |= stamp.mask
    return any(
        placed.stamp.hole.any() and is_thing[placed.stamp.window][placed.stamp.hole].mean() > 0.4
        for placed in canvas.things.values()
    )


def place(
    rng: np.random.Generator, canvas: Canvas, name: str, centre: tuple[float, float], radius: float
) -> Placed:
    """A thing at a random angle, slightly stretched."""
    angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.1)
    height, width = canvas.labels.shape
    stamp = shapes.render(name, centre, radius, angle, stretch, (height, width))
    return Placed(name, centre, radius, float(angle), stamp)


def _propose(
    rng: np.random.Generator, canvas: Canvas, radii: tuple[float, float], touch: bool
) -> Placed:
    """A random thing; with ``touch`` one that touches a thing of its own class."""
    height, width = canvas.labels.shape
    radius = float(np.exp(rng.uniform(*np.log(radii)))) * canvas.unit
    name = THING_NAMES[int(rng.integers(0, len(THING_NAMES)))]
    margin = 0.7 * radius
    centre = (
        float(rng.uniform(margin, width - margin)),
        float(rng.uniform(margin, height - margin)),
    )
    if touch and canvas.things:
        neighbour = list(canvas.things.values())[int(rng.integers(0, len(canvas.things)))]
        name = neighbour.name
        radius = max(9.5 * canvas.unit, neighbour.radius * float(rng.uniform(0.75, 1.3)))
        reach = float(rng.uniform(0.75, 0.95)) * (radius + neighbour.radius)
        way = rng.uniform(0, 2 * np.pi)
        centre = (
            neighbour.centre[0] + reach * float(np.cos(way)),
            neighbour.centre[1] + reach * float(np.sin(way)),
        )
    return place(rng, canvas, name, centre, radius)


def _contrasting_color(rng: np.random.Generator, beneath: Array) -> Array:
    """The first of some random colours that differs from nearly all the pixels ``[P, 3]``."""
    sample = beneath[:: max(1, len(beneath) // 200)]
    candidates = textures.random_color(rng, 16)
    gaps = np.linalg.norm(candidates[:, None] - sample[None], axis=-1)
    tenth = np.quantile(gaps, 0.1, axis=1)
    good = np.flatnonzero(tenth > 0.28)
    return candidates[good[0] if len(good) else tenth.argmax()]


def _fill_picture(rng: np.random.Generator, placed: Placed, color: Array, unit: float) -> Array:
    """Colours of a thing in its window: its class's pattern in two colours, shaded, grainy."""
    rows, columns = placed.stamp.window
    x = np.arange(columns.start, columns.stop, dtype=np.float32) - placed.centre[0]
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - placed.centre[1]
    cos, sin = np.cos(placed.angle), np.sin(placed.angle)
    along, across = (x * cos + y * sin) / placed.radius, (y * cos - x * sin) / placed.radius
    share = coats.pattern(placed.name, along, across, placed.radius, unit)[..., None]
    fill = (1 - share) * color + share * _contrasting_color(rng, color[None])
    turn = rng.uniform(0, 2 * np.pi)
    fill *= (1 + rng.uniform(0.1, 0.25) * (np.cos(turn) * along + np.sin(turn) * across))[..., None]
    if rng.random() < 0.3:
        fill += 0.04 * rng.standard_normal((*share.shape[:2], 1), dtype=np.float32)
    return fill


def draw_thing(rng: np.random.Generator, canvas: Canvas, placed: Placed) -> None:
    """Draws a thing, with its shadow, in colours that contrast with what lies beneath."""
    stamp, unit = placed.stamp, canvas.unit
    shadow = cv2.GaussianBlur(stamp.alpha, (0, 0), 1.5 * unit)
    shift = 2.0 * unit * np.array([np.cos(canvas.light), np.sin(canvas.light)])
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    shadow = cv2.warpAffine(shadow, move, (shadow.shape[1], shadow.shape[0]))
    patch = canvas.picture[stamp.window]
    color = _contrasting_color(rng, patch[stamp.mask])
    patch *= 1 - rng.uniform(0.2, 0.4) * shadow[..., None]

    fill = _fill_picture(rng, placed, color, unit)
    if rng.random() < 0.6:
        outline = rng.uniform(0.3, 0.6) if color.mean() > 0.45 else rng.uniform(1.5, 2.0)
        core = cv2.erode(stamp.alpha, np.ones((3, 3), np.uint8), borderValue=(1.0,))
        fill *= (core + (1 - core) * outline)[..., None]
    alpha = stamp.alpha[..., None]
    patch *= 1 - alpha
    patch += alpha * fill

    canvas.segments.append(Segment(placed.name, isthing=True))
    label = len(canvas.segments)
    canvas.labels[stamp.window][stamp.mask] = label
    canvas.things[label] = placed


def _add_things(
    rng: np.random.Generator, canvas: Canvas, count: int, pairs: int, varied_sizes: bool
) -> None:
    """Draws ``count`` things back to front, ``pairs`` of them touching one of their class.

    Fewer are drawn where a crowded picture has no room in 25 attempts.
    """
    for k in range(count):
        touch = count - k <= pairs
        small = rng.random() < 0.08
        radii = (7.5, 10.0) if small else (12.5, 27.0)
        if varied_sizes:
            radii = VARIED_RADII
        for _ in range(25):
            placed = _propose(rng, canvas, radii, touch)
            stamp = placed.stamp
            if (
                stamp.inside >= 1 - MAX_HIDDEN / 2
                and stamp.mask.sum() >= MIN_THING_AREA * canvas.unit**2
                and not _covers_too_much(canvas, stamp)
            ):
                draw_thing(rng, canvas, placed)
                break


def photograph(rng: np.random.Generator, picture: Array) -> Array:
    """The picture ``[H, W, 3]`` as a camera would see it: uint8."""
    height, width = picture.shape[:2]
    along, _ = textures.rotated_grid((height, width), rng.uniform(0, 2 * np.pi))
    gradient = rng.uniform(0.0, 0.35) * ((along - along.mean()) / np.ptp(along))
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    picture = np.clip(picture * (1 + gradient)[..., None] * gain, 0, 1)
    picture = np.power(picture, np.float32(rng.uniform(0.8, 1.25)))
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.35, 0.65))
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    picture = picture + rng.uniform(0.005, 0.022) * noise
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _hide_corner(rng: np.random.Generator, image: Array, labels: Array) -> None:
    """Blackens a corner, which is then unlabelled: a strap before the lens."""
    height, width = labels.shape
    y = np.arange(height, dtype=np.float32)[:, None] / height
    x = np.arange(width, dtype=np.float32)[None, :] / width
    y = 1 - y if rng.random() < 0.5 else y
    x = 1 - x if rng.random() < 0.5 else x
    corner = x * rng.uniform(0.8, 1.25) + y < rng.uniform(0.15, 0.3)
    image[corner] = 0
    labels[corner] = 0


def _is_sound(labels: Array, segments: list[Segment], unit: float) -> bool:
    """Whether every segment is still large enough, and every thing still in one piece."""
    areas = np.bincount(labels.ravel(), minlength=len(segments) + 1)[1:]
    for k, (segment, area) in enumerate(zip(segments, areas, strict=True), start=1):
        least = MIN_THING_AREA * unit**2 if segment.isthing else 0.02 * labels.size
        if area < least:
            return False
        if segment.isthing and cv2.connectedComponents((labels == k).astype(np.uint8))[0] != 2:
            return False
    return True


def draw_scene(
    rng: np.random.Generator, index: int, image_scale: float = 1.0, varied_sizes: bool = False
) -> Scene:
    """Draws one scene.

    Args:
        rng: the only source of randomness.
        index: number of the picture, from 0. It sets what must occur in every data set: one in
            40 shows a single segment, one in 16 has no thing, one in 12 an unlabelled corner,
            and half of the others hold touching things of one class.
        image_scale: factor on the picture's size and on all patterns and shapes in it.
        varied_sizes: whether the largest things may be six times as long as the smallest, all
            sizes between them being as frequent; otherwise nearly all are within a factor of two.

    Returns:
        The scene; the same for the same arguments.
    """
    size = SIZES[int(rng.integers(0, len(SIZES)))]
    shape = (round(size[0] * image_scale), round(size[1] * image_scale))
    single, empty, corner = index % 40 == 21, index % 16 == 5, index % 12 == 7
    while True:
        regions = 1 if single else int(rng.integers(2, 5))
        canvas = draw_background(rng, shape, regions, image_scale)
        if not (single or empty):
            pairs = int(rng.integers(1, 3)) if index % 2 == 0 else 0
            count = int(rng.choice([2, 3, 4, 4, 5, 5, 6, 7, 8]))
            _add_things(rng, canvas, count, pairs, varied_sizes)
        image = photograph(rng, canvas.picture)
        if corner:
            _hide_corner(rng, image, canvas.labels)
        if _is_sound(canvas.labels, canvas.segments, image_scale):
            return Scene(image, canvas.labels, canvas.segments)
