"""How time and memory of Axial-ResNet-S grow with the image and with the span."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from benchmarks.models import axial_backbone, relative_error
from benchmarks.registry import Goal, Growth, Points, Run, Setting, Side, sweep

SPAN = 65
GLOBAL = 0
GROWTH_START = 513


class Features:
    """The backbone's feature maps of one square image, in inference."""

    def __init__(self, model: nn.Module, side: int, device: str):
        self.model = model.eval()
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(1, 3, side, side, generator=generator).to(device)

    @torch.inference_mode()
    def __call__(self) -> Mapping[str, Tensor]:
        return self.model(self.image)


def backbone_points(
    setting: Setting, points: Iterable[tuple[str, float, int, int]], shapes: str, rounds: int
) -> Points:
    """Points from (series, x, span, side of the image)."""
    points = list(points)
    where: dict[str, tuple[int, int]] = {}
    for series, _, span, side in points:
        where.setdefault(series, (span, side))

    def features(span: int, side: int, implementation: str) -> Features:
        model = axial_backbone(setting.device, span, implementation)
        return Features(model, side, setting.device)

    def check(series: str, run: Run) -> float:
        span, side = where[series]
        expected = features(span, side, "reference")()
        return max(relative_error(run()[name], expected[name]) for name in expected)

    def side_at(span: int, side: int) -> Side:
        return Side("Axial-ResNet-S", lambda: features(span, side, "auto"))

    sides = {(series, x): side_at(span, side) for series, x, span, side in points}
    return Points(
        sides,
        check,
        tolerance=1e-4,
        checked_against="the features by the reference attention",
        shapes=shapes,
        rounds=rounds,
    )


@sweep(
    "input_side",
    "Axial-ResNet-S over the side of a square image",
    x_label="side of the image, pixels",
    growth=Growth(
        f"span {SPAN}",
        GROWTH_START,
        Goal("time", 1.15, 1.15, "time per pixel at span 65, 2049² over 513²"),
    ),
)
def input_side(setting: Setting) -> Points:
    sides = setting.size((257, GROWTH_START, 1025, 2049), (33, 65))
    global_sides, shapes = sides, "1 image, output stride 16, float32"
    if setting.device == "cpu" and not setting.quick:
        global_sides = sides[:-1]
        shapes += f"; not global at {sides[-1]}², where a call takes 40 s"
    points = [(f"span {SPAN}", side, SPAN, side) for side in sides]
    points += [("global", side, GLOBAL, side) for side in global_sides]
    return backbone_points(setting, points, shapes, rounds=2)


@sweep("span", "Axial-ResNet-S over the span", x_label="span, positions at each stride")
def span(setting: Setting) -> Points:
    side = setting.size(GROWTH_START, 33)
    spans = setting.size((5, 17, 33, 65, 129, 257), (3, 9))
    points = [(f"{side}² image", each, each, side) for each in spans]
    return backbone_points(setting, points, f"1 image of {side}², output stride 16, float32", 2)
