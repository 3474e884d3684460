"""A panoptic segmentation, segment by segment: on the device, and read to the host."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PanopticSegments(NamedTuple):
    """A panoptic segmentation, segment by segment.

    All but the map is on the CPU, wherever the map is.

    Attributes:
        ids: [H, W] int32; 0 is void, otherwise 1 + the segment's index in the fields below.
        classes: [S] int64, contiguous category ids.
        is_thing: [S] bool.
        scores: [S], in 0 … 1.
        areas: [S] int64, in pixels, never 0.
    """

    ids: Tensor
    classes: Tensor
    is_thing: Tensor
    scores: Tensor
    areas: Tensor

    def segments_info(self) -> list[dict]:
        """Detectron2's ``segments_info``: id, category_id, isthing, score and area of each."""
        return [
            {
                "id": index,
                "category_id": category,
                "isthing": thing,
                "score": score,
                "area": area,
            }
            for index, (category, thing, score, area) in enumerate(
                zip(
                    self.classes.tolist(),
                    self.is_thing.tolist(),
                    self.scores.tolist(),
                    self.areas.tolist(),
                    strict=True,
                ),
                start=1,
            )
        ]


class SegmentSlots(NamedTuple):
    """:class:`PanopticSegments` in a number of places that does not depend on the maps.

    Attributes:
        ids: [H, W] int32, as there.
        num_segments: [], their number S.
        fields: [4, M] float64: class, whether it is a thing, score and area of each segment;
            those from S on mean nothing.
    """

    ids: Tensor
    num_segments: Tensor
    fields: Tensor

    @classmethod
    def of(cls, ids: Tensor, kept: Tensor, *fields: Tensor) -> SegmentSlots:
        """Moves the segments that are kept to the front.

        Args:
            ids: [H, W] int32, numbers of the segments that are kept.
            kept: [M] bool.
            fields: [M] each: classes, is_thing, scores and areas.
        """
        order = kept.int().argsort(descending=True, stable=True)
        # float64 holds each of them exactly.
        together = torch.stack([field.double() for field in fields])
        return cls(ids, kept.sum(), together[:, order])

    def read(self) -> PanopticSegments:
        """Waits for the device, once."""
        number = self.num_segments.double().expand(len(self.fields), 1)
        host = torch.cat([number, self.fields], dim=1).cpu()
        classes, is_thing, scores, areas = host[:, 1 : 1 + int(host[0, 0])]
        return PanopticSegments(
            self.ids, classes.long(), is_thing.bool(), scores.float(), areas.long()
        )
