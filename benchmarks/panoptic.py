"""Axial-DeepLab-S from an image to a panoptic map, beside Detectron2's Panoptic-DeepLab R-52."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from axial_d2.analysis.networks import PanopticNetwork
from axial_d2.postprocessing import PanopticSegments
from torch import Tensor, nn

from benchmarks.models import axial_deeplab, panoptic_deeplab, relative_error
from benchmarks.postprocessing import panoptic_difference
from benchmarks.registry import Contest, Goal, Run, Setting, Side, case
from benchmarks.scenes import NUM_STUFF, NUM_THINGS, Scene, make_scene

STRIDE = 4
NUM_INSTANCES = 20


def image_size(setting: Setting) -> tuple[int, int]:
    full = {"cpu": (513, 1025), "cuda": (1025, 2049)}
    return setting.size(full[setting.device], (65, 129))


def precision(setting: Setting) -> Any:
    """float32 on a CPU, bfloat16 under autocast on a GPU."""
    if setting.device == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()


def describe(setting: Setting, batch: int) -> str:
    height, width = image_size(setting)
    kind = "bfloat16" if setting.device == "cuda" else "float32"
    return f"{batch} image(s) [3, {height}, {width}], 19 classes, {kind}"


class Inference:
    """A model on one image, with the last maps of its heads exchanged for those of a scene.

    Random weights predict any number of centres. The heads do their work, and the same maps go
    on to either post-processing.
    """

    def __init__(self, model: nn.Module, setting: Setting):
        self.model: Any = model.eval()
        self.setting = setting
        height, width = image_size(setting)
        generator = torch.Generator().manual_seed(0)
        self.image = torch.rand(3, height, width, generator=generator) * 255
        self.inputs = [{"image": self.image, "height": height, "width": width}]
        scene = make_scene(-(-height // STRIDE), -(-width // STRIDE), NUM_INSTANCES)
        self.scene: Scene = scene.to(setting.device)

    @torch.inference_mode()
    def __call__(self) -> tuple[Tensor, Any]:
        with precision(self.setting), exchanged_maps(self.model, self.scene):
            return self.model(self.inputs)[0]["panoptic_seg"]

    @torch.inference_mode()
    def maps(self) -> list[Tensor]:
        """The heads' own, at the network's stride."""
        image = self.image.to(self.model.device)
        normalised = (image - self.model.pixel_mean) / self.model.pixel_std
        with precision(self.setting):
            return list(PanopticNetwork(self.model)(normalised[None]))


@contextlib.contextmanager
def exchanged_maps(model: Any, scene: Scene) -> Iterator[None]:
    """Lets the heads compute their maps and hand on the scene's."""
    semantic, instance = model.sem_seg_head, model.ins_embed_head
    compute = semantic.layers, instance.layers

    def semantic_layers(features: Any) -> Tensor:
        compute[0](features)
        return scene.logits[None]

    def instance_layers(features: Any) -> tuple[Tensor, Tensor]:
        compute[1](features)
        return scene.heatmap[None, None], scene.offsets[None]

    semantic.layers, instance.layers = semantic_layers, instance_layers
    try:
        yield
    finally:
        del semantic.layers, instance.layers


def check_inference(ours: Run, peers: Sequence[Run]) -> float:
    """Our network against the reference attention, our panoptic map against Detectron2's."""
    assert isinstance(ours, Inference)
    reference = Inference(axial_deeplab(ours.setting.device, "reference"), ours.setting)
    errors = [
        relative_error(given, expected)
        for given, expected in zip(ours.maps(), reference.maps(), strict=True)
    ]
    ids, infos = ours()
    fields = ("category_id", "isthing", "score", "area")
    tensors = (torch.tensor([info[field] for info in infos]) for field in fields)
    labels, _ = peers[0]()
    return max(*errors, panoptic_difference(PanopticSegments(ids, *tensors), labels))


def panoptic_deeplab_sides(setting: Setting, make_run: Any) -> Sequence[Side]:
    """Both of Detectron2's R-52 models; the faster counts."""

    def side(convolutions: str, separable: bool) -> Side:
        return Side(
            f"Panoptic-DeepLab R-52, {convolutions} convolutions",
            lambda: make_run(panoptic_deeplab(setting.device, separable), setting),
        )

    return [side("separable", True), side("plain", False)]


@case(
    "panoptic_inference",
    "Axial-DeepLab-S, image to panoptic map, over Detectron2's Panoptic-DeepLab R-52",
    {
        "cpu": [Goal("time", 1.2, 0.7, "Axial-DeepLab-S, image to panoptic map at 513×1025")],
        "cuda": [Goal("time", 1.2, 0.8, "Axial-DeepLab-S 1025×2049, bf16 inference")],
    },
)
def panoptic_inference(setting: Setting) -> Contest:
    return Contest(
        Side(
            "Axial-DeepLab-S, span 65",
            lambda: Inference(axial_deeplab(setting.device), setting),
        ),
        panoptic_deeplab_sides(setting, Inference),
        check_inference,
        # bfloat16 rounds 1 in 256 in each of a hundred layers.
        tolerance={"cpu": 1e-3, "cuda": 0.1}[setting.device],
        checked_against="maps by the reference attention, and Detectron2's panoptic map",
        shapes=f"{describe(setting, 1)}, {NUM_INSTANCES} centres",
        notes=[
            "With random weights the number of centres is arbitrary: both heads compute their "
            "maps, then both post-processings get the same synthetic ones.",
            "Ours also gives segments_info and mean scores; both give instances and semantic maps.",
        ],
        rounds=5,
    )


class Training:
    """Losses of a batch with random targets, backward and a step of SGD."""

    def __init__(self, model: nn.Module, setting: Setting):
        self.model = model.train()
        self.setting = setting
        self.inputs = training_examples(setting)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        with precision(self.setting):
            loss = sum(self.model(self.inputs).values())
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def training_examples(setting: Setting) -> list[dict]:
    """Images with the targets that both models take."""
    size = image_size(setting)
    generator = torch.Generator().manual_seed(0)

    def example() -> dict[str, Tensor]:
        random = torch.rand(9, *size, generator=generator)
        return {
            "image": random[:3] * 255,
            "sem_seg": (random[3] * (NUM_STUFF + NUM_THINGS)).long(),
            "sem_seg_weights": torch.ones(size),
            "center": random[4],
            "center_weights": torch.ones(1, *size),
            "offset": random[5:7] * 100 - 50,
            "offset_weights": torch.ones(1, *size),
        }

    return [example() for _ in range(2)]


@case(
    "panoptic_training",
    "Axial-DeepLab-S, training step, over Detectron2's Panoptic-DeepLab R-52",
    {"cuda": [Goal("time", 1.2, 0.8, "training step of the same")]},
)
def panoptic_training(setting: Setting) -> Contest:
    def check(ours: Run, peers: Sequence[Run]) -> float:
        reference = Training(axial_deeplab(setting.device, "reference"), setting)
        return relative_error(ours(), reference())

    return Contest(
        Side(
            "Axial-DeepLab-S, span 65",
            lambda: Training(axial_deeplab(setting.device), setting),
        ),
        panoptic_deeplab_sides(setting, Training),
        check,
        tolerance=0.05,
        checked_against="the loss by the reference attention",
        shapes=describe(setting, 2),
        rounds=5,
        calls_for_peak=2,
    )
