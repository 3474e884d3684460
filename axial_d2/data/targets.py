"""Training targets: Detectron2's generator, with crowd regions kept out of the centres."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator


class PanopticTargetGenerator(PanopticDeepLabTargetGenerator):
    """Semantic map, centre heat-map, offsets and their weights for one image.

    Detectron2's generator draws a centre for a crowd region, whose Gaussian reaches into pixels
    that count. Here a crowd region has no centre; it is semantic ground truth (unless
    ``ignore_crowd_in_semantic``) and nothing else. Arguments and result are the base class's.
    """

    def __call__(self, panoptic: np.ndarray, segments_info: list[dict]) -> dict:
        crowd = [segment for segment in segments_info if segment.get("iscrowd")]
        targets = super().__call__(
            panoptic, [{"iscrowd": 0, **s} for s in segments_info if not s.get("iscrowd")]
        )
        if not self.ignore_crowd_in_semantic:
            for segment in crowd:
                mask = torch.from_numpy(panoptic == segment["id"])
                targets["sem_seg"][mask] = segment["category_id"]
        return targets
