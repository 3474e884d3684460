"""From a COCO-panoptic JSON's categories to the classes that a model counts.

Contiguous ids put the things first and then the stuff, each by ascending category id:

* ``COCOEvaluator`` demands that things are 0 … n-1, and reads per-class AP in ascending order
  of category id;
* the semantic head, the semantic PNGs and ``SemSegEvaluator`` number the same classes 0 … N-1;
* Detectron2's ``Visualizer`` looks a thing's name up in ``thing_classes`` and any other class in
  ``stuff_classes``, by contiguous id.

So ``thing_classes`` names the n things and ``stuff_classes`` all N classes, things included.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any


def contiguous_ids(categories: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """From category id to class id, things first; in the order of the class ids."""
    order = sorted(categories, key=lambda c: (not c["isthing"], c["id"]))
    return {category["id"]: index for index, category in enumerate(order)}


def generated_color(index: int) -> list[int]:
    """A colour ``[R, G, B]`` in 0 … 255; the first hundreds of indices all differ."""
    golden_ratio = 0.618033988749895
    hue = (index * golden_ratio) % 1.0
    saturation = (0.85, 0.6, 0.45)[index % 3]
    value = (0.95, 0.75)[index // 3 % 2]
    return [round(255 * x) for x in colorsys.hsv_to_rgb(hue, saturation, value)]


def _colors(order: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The categories' own colours; generated ones, distinct from all others, where they lack."""
    taken = {tuple(c["color"]) for c in order if c.get("color") is not None}
    colors, index = [], 0
    for category in order:
        color = category.get("color")
        while color is None:
            candidate = generated_color(index)
            index += 1
            if tuple(candidate) not in taken:
                taken.add(tuple(candidate))
                color = candidate
        colors.append(list(color))
    return colors


def class_metadata(categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What Detectron2's evaluators and ``Visualizer`` need to know about the classes.

    Args:
        categories: with ``id``, ``name``, ``isthing`` and perhaps ``color`` (RGB, 0 … 255).

    Returns:
        ``thing_classes``, ``thing_colors``, ``thing_dataset_id_to_contiguous_id`` for the n
        things; ``stuff_classes``, ``stuff_colors``, ``stuff_dataset_id_to_contiguous_id`` for
        all N classes.
    """
    mapping = contiguous_ids(categories)
    by_id = {category["id"]: category for category in categories}
    order = [by_id[id_] for id_ in mapping]
    things = sum(bool(category["isthing"]) for category in order)
    names, colors = [category["name"] for category in order], _colors(order)
    return {
        "thing_classes": names[:things],
        "thing_colors": colors[:things],
        "thing_dataset_id_to_contiguous_id": dict(list(mapping.items())[:things]),
        "stuff_classes": names,
        "stuff_colors": colors,
        "stuff_dataset_id_to_contiguous_id": mapping,
    }
