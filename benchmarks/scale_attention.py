"""Attention to Scale over its own network at one scale: what more scales and merging cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from axial_d2.backbone import VGG16LargeFOV
from axial_d2.heads import LinearSemSegHead
from axial_d2.meta_arch import ScaleAttentionSegmentor, SlidingWindowSegmentor
from torch import Tensor

from benchmarks.models import relative_error
from benchmarks.registry import Contest, Run, Setting, Side, case

NUM_CLASSES = 21
SCALES = (1.0, 0.75, 0.5)


def model(device: str, width: float, **options: Any) -> SlidingWindowSegmentor:
    """The paper's network on one scale, or with ``scales`` on several."""
    torch.manual_seed(0)
    backbone = VGG16LargeFOV(width_multiplier=width)
    head = LinearSemSegHead(input_shape=backbone.output_shape(), num_classes=NUM_CLASSES)
    kind = ScaleAttentionSegmentor if options else SlidingWindowSegmentor
    built = kind(
        backbone=backbone,
        sem_seg_head=head,
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        **options,
    )
    return built.to(device).eval()


class Scores:
    """The scores of one image."""

    def __init__(self, network: SlidingWindowSegmentor, side: int):
        self.network = network
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(1, 3, side, side, generator=generator).to(network.device)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        return self.network.scores(self.image)


@case(
    "scale_attention_inference",
    "Attention to Scale (VGG-16, three scales), an image, over the same network at one scale",
    {"cpu": [], "cuda": []},
)
def scale_attention_inference(setting: Setting) -> Contest:
    side, width = setting.size((513, 1.0), (33, 0.1))

    def check(ours: Run, peers: Sequence[Run]) -> float:
        """With one scale it is the plain network."""
        (peer,) = peers
        assert isinstance(peer, Scores)
        single = Scores(model(setting.device, width, scales=(1.0,)), side)
        single.network.load_state_dict(peer.network.state_dict(), strict=False)
        assert ours().shape == single().shape
        return relative_error(single(), peer())

    return Contest(
        Side("three scales", lambda: Scores(model(setting.device, width, scales=SCALES), side)),
        [Side("one scale", lambda: Scores(model(setting.device, width), side))],
        check,
        tolerance=1e-4,
        checked_against="the plain network, with one scale",
        shapes=f"1 image of {side}×{side}, {NUM_CLASSES} classes, float32",
        notes=["By multiply-adds, three scales are 1 + 0.56 + 0.25 of one, and the attention net."],
        rounds=2,
    )
