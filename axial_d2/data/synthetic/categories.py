"""Classes of the demo data: things are told apart by shape, stuff by texture, neither by colour."""

from __future__ import annotations

from typing import TypedDict


class Category(TypedDict):
    """One entry of ``categories`` in a COCO-panoptic JSON."""

    id: int
    name: str
    supercategory: str
    isthing: int
    color: list[int]


def _category(id_: int, name: str, isthing: int, color: list[int]) -> Category:
    kind = "shape" if isthing else "texture"
    return {"id": id_, "name": name, "supercategory": kind, "isthing": isthing, "color": color}


# Ids have gaps and things and stuff alternate, so that nothing works by assuming otherwise.
# The colours are for drawing labels only; the pictures never use them.
CATEGORIES: list[Category] = [
    _category(1, "ball", 1, [220, 20, 60]),
    _category(2, "grass", 0, [90, 200, 90]),
    _category(3, "triangle", 1, [255, 200, 0]),
    _category(4, "brick", 0, [170, 90, 60]),
    _category(6, "star", 1, [150, 60, 200]),
    _category(7, "water", 0, [40, 140, 220]),
    _category(9, "ring", 1, [250, 120, 180]),
    _category(11, "gravel", 0, [130, 130, 130]),
    _category(12, "cross", 1, [0, 210, 200]),
    _category(15, "sky", 0, [190, 225, 255]),
]
THING_NAMES: list[str] = [c["name"] for c in CATEGORIES if c["isthing"]]
STUFF_NAMES: list[str] = [c["name"] for c in CATEGORIES if not c["isthing"]]
CATEGORY_IDS: dict[str, int] = {c["name"]: c["id"] for c in CATEGORIES}
