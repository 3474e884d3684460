"""From full-size maps to a panoptic map, beside Detectron2's Panoptic-DeepLab."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from axial_d2.postprocessing import PanopticSegments, find_centers, panoptic_segments
from detectron2.projects.panoptic_deeplab.post_processing import (
    find_instance_center,
    get_panoptic_segmentation,
)
from torch import Tensor

from benchmarks.registry import Contest, Goal, Run, Setting, Side, case
from benchmarks.scenes import THING_CLASSES, Scene, disagreement, make_scene

LABEL_DIVISOR, VOID = 1000, -1
STUFF_AREA, THRESHOLD, NMS_KERNEL, TOP_K = 2048, 0.1, 7, 200


class OurPostprocessing:
    """Probabilities, heat-map and offsets to a map of ids and segments_info."""

    def __init__(self, scene: Scene):
        self.maps = (scene.logits.softmax(dim=0), scene.heatmap, scene.offsets)

    def __call__(self) -> PanopticSegments:
        segments = panoptic_segments(
            *self.maps,
            THING_CLASSES,
            stuff_area=STUFF_AREA,
            threshold=THRESHOLD,
            nms_kernel=NMS_KERNEL,
            top_k=TOP_K,
        )
        segments.segments_info()
        return segments


class TheirPostprocessing:
    """The same by Detectron2, which gives no segments_info."""

    def __init__(self, scene: Scene):
        self.maps = (scene.logits.softmax(dim=0), scene.heatmap[None], scene.offsets)

    def __call__(self) -> Tensor:
        probabilities, heatmap, offsets = self.maps
        labels, _ = get_panoptic_segmentation(
            probabilities.argmax(dim=0, keepdim=True),
            heatmap,
            offsets,
            THING_CLASSES,
            LABEL_DIVISOR,
            STUFF_AREA,
            VOID,
            threshold=THRESHOLD,
            nms_kernel=NMS_KERNEL,
            top_k=TOP_K,
        )
        return labels[0]


def numbers_of_centers(scene: Scene) -> tuple[int, int]:
    """That ours and Detectron2's code find in a scene."""
    ours, _ = find_centers(scene.heatmap, THRESHOLD, NMS_KERNEL, TOP_K)
    theirs = find_instance_center(scene.heatmap[None], THRESHOLD, NMS_KERNEL, TOP_K)
    return len(ours), len(theirs)


def panoptic_difference(segments: PanopticSegments, labels: Tensor) -> float:
    """Share of pixels of another class or another segment."""
    classes = torch.cat([torch.tensor([VOID]), segments.classes])[segments.ids.long().cpu()]
    theirs = torch.div(labels, LABEL_DIVISOR, rounding_mode="floor").cpu()
    other_class = float((classes != theirs).double().mean())
    return max(other_class, disagreement(segments.ids.cpu().long(), labels.cpu()))


@case(
    "postprocessing",
    "Post-processing at 1024×2048, 50 centres, over Detectron2's",
    {"cpu": [Goal("time", 1 / 40, 1 / 100)], "cuda": []},
)
def postprocessing(setting: Setting) -> Contest:
    height, width, centers = setting.size((1024, 2048, 50), (64, 128, 5))

    def scene() -> Scene:
        return make_scene(height, width, centers).to(setting.device)

    def check(ours: Run, peers: Sequence[Run]) -> float:
        if numbers_of_centers(scene()) != (centers, centers):
            return float("inf")
        return panoptic_difference(ours(), peers[0]())

    return Contest(
        Side("axial_d2", lambda: OurPostprocessing(scene())),
        [Side("Detectron2", lambda: TheirPostprocessing(scene()))],
        check,
        tolerance=1e-4,
        checked_against="Detectron2's panoptic map",
        shapes=f"19 classes, {height}×{width}, {centers} centres, a quarter of the pixels things",
        notes=[
            "Both take the class of every pixel from the same probabilities; ours also gives "
            "segments_info with scores and areas."
        ],
        rounds=2,
        warm=True,
    )
