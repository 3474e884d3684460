"""The whole post-processing as plain loops over pixels: slow, and easy to agree with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

Pixel = tuple[int, int]


def slow_panoptic_segments(
    probabilities: np.ndarray,
    heatmap: np.ndarray,
    offsets: np.ndarray,
    thing_classes: Sequence[int],
    stuff_area: int,
    threshold: float,
    nms_kernel: int,
    top_k: int | None,
) -> tuple[np.ndarray, list[dict]]:
    """[H, W] of segment ids and their segments_info, by the documented rules."""
    semantic = probabilities.argmax(axis=0)  # the first of equal ones
    centers = slow_centers(heatmap, threshold, nms_kernel, top_k)
    members: dict[tuple, list[Pixel]] = {}
    for pixel in np.ndindex(*semantic.shape):
        is_thing = semantic[pixel] in thing_classes
        if is_thing and centers:
            key = ("instance", slow_nearest(centers, pixel, offsets[(slice(None), *pixel)]))
        else:
            key = ("rest", semantic[pixel])
        members.setdefault(key, []).append(pixel)

    ids = np.zeros(semantic.shape, dtype=int)
    infos: list[dict] = []
    for key, pixels in sorted(members.items()):  # "instance" sorts before "rest"
        kind, number = key
        category = slow_vote(semantic, pixels) if kind == "instance" else number
        is_thing = category in thing_classes
        if not is_thing and len(pixels) < stuff_area:
            continue
        score = np.mean([probabilities[(semantic[p], *p)] for p in pixels])
        if is_thing:
            at_center = heatmap[centers[number]] if kind == "instance" else None
            score *= max(heatmap[p] for p in pixels) if at_center is None else at_center
        for pixel in pixels:
            ids[pixel] = len(infos) + 1
        infos.append(
            {
                "id": len(infos) + 1,
                "category_id": int(category),
                "isthing": is_thing,
                "score": float(min(max(score, 0.0), 1.0)),
                "area": len(pixels),
            }
        )
    return ids, infos


def slow_centers(
    heatmap: np.ndarray, threshold: float, nms_kernel: int, top_k: int | None
) -> list[Pixel]:
    """Peaks above the threshold, highest first; the earliest of equal ones in a window."""
    reach = nms_kernel // 2
    height, width = heatmap.shape

    def window(y: int, x: int) -> list[Pixel]:
        rows = range(max(0, y - reach), min(height, y + reach + 1))
        columns = range(max(0, x - reach), min(width, x + reach + 1))
        return [(v, u) for v in rows for u in columns]

    peaks = [
        pixel
        for pixel in np.ndindex(height, width)
        if heatmap[pixel] > threshold
        and all(heatmap[other] <= heatmap[pixel] for other in window(*pixel))
    ]
    first = [p for p in peaks if not any(q in peaks and q < p for q in window(*p))]
    return sorted(first, key=lambda p: (-heatmap[p], p))[:top_k]


def slow_nearest(centers: list[Pixel], pixel: Pixel, offset: np.ndarray) -> int:
    """Index of the centre nearest to where the pixel points, the first of equally near ones."""
    y, x = pixel[0] + offset[0], pixel[1] + offset[1]
    distances = [(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centers]
    return distances.index(min(distances))


def slow_vote(semantic: np.ndarray, pixels: list[Pixel]) -> int:
    """The most frequent class, the lowest of equally frequent ones."""
    votes = Counter(int(semantic[p]) for p in pixels)
    return min(votes, key=lambda category: (-votes[category], category))
