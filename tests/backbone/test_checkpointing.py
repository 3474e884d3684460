"""CHECKPOINT_STAGES changes what training keeps and nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
import two_checkpointed_processes
from axial_d2.backbone import AxialSWideRNet, MaXDeepLabSBackbone
from axial_d2.backbone.checkpointing import CheckpointedStage
from axial_d2.layers import NORM_CHOICES
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.resnet import ResNet
from tiny_backbones import FEATURES, let_branches_speak, tiny_backbone, tiny_config
from tiny_deeplab2 import tiny as tiny_deeplab2
from tiny_deeplab2 import tiny_config as tiny_deeplab2_config
from torch import Tensor

STAGES = FEATURES[1:]
KINDS = ("axial", "conv", "local", "local_ps", "global")
close = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def of_kind(kind: str, **options: Any) -> ResNet:
    return tiny_backbone(stage_types=(kind,) * 4, span=3, **options)


def trained(
    build: Callable[..., ResNet], stages: Collection[str], dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    """Outputs, gradients and statistics of two steps from the same start."""
    torch.manual_seed(0)
    model = build(checkpoint_stages=stages).to(dtype)
    let_branches_speak(model)
    inputs = torch.randn(2, 2, 3, 33, 24, dtype=dtype, requires_grad=True)
    for images in inputs:
        outputs = model(images)
        sum(feature.square().mean() for feature in outputs.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    return {
        "outputs": outputs,
        "input_gradient": inputs.grad,
        "gradients": gradients,
        "statistics": dict(model.named_buffers()),
        "random": torch.rand(1),
    }


def assert_same(got: dict[str, Any], want: dict[str, Any]) -> None:
    for part in want:
        close(got[part], want[part], msg=lambda text, part=part: f"{part}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_same_results_gradients_and_statistics(kind: str) -> None:
    build = functools.partial(of_kind, kind)
    assert_same(trained(build, STAGES), trained(build, ()))


@pytest.mark.parametrize("norm", NORM_CHOICES)
def test_every_norm(norm: str) -> None:
    build = functools.partial(tiny_backbone, norm=norm)
    assert_same(trained(build, ["res2", "res4"]), trained(build, ()))


@pytest.mark.parametrize("backbone", [AxialSWideRNet, MaXDeepLabSBackbone])
def test_drop_path_drops_the_same(backbone: type) -> None:
    build = functools.partial(tiny_deeplab2, backbone, drop_path_rate=0.8)
    plain = trained(build, ())
    assert_same(trained(build, STAGES), plain)
    without = trained(functools.partial(tiny_deeplab2, backbone, drop_path_rate=0.0), ())
    assert (without["outputs"]["res5"] - plain["outputs"]["res5"]).abs().max() > 0.1


def test_frozen_stages() -> None:
    build = functools.partial(tiny_backbone, freeze_at=2)
    got, want = trained_frozen(build, STAGES), trained_frozen(build, ())
    assert_same(got, want)
    assert not any(name.startswith(("stem", "res2")) for name in got["gradients"])


def trained_frozen(build: Callable[..., ResNet], stages: Collection[str]) -> dict[str, Any]:
    result = trained(build, stages)
    result.pop("random")
    return result


def test_bf16_autocast_on_the_cpu() -> None:
    def run(stages: Collection[str]) -> dict[str, Any]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return trained(tiny_backbone, stages, torch.float32)

    assert_same(run(STAGES), run(()))


def test_two_processes_that_synchronise(tmp_path: Path) -> None:
    mp.spawn(two_checkpointed_processes.run, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for results in ranks:
        assert_same(results[STAGES], results[()])
    close(ranks[0][STAGES]["statistics"], ranks[1][STAGES]["statistics"])


def test_keys_and_evaluation_stay_as_they_are() -> None:
    plain, checkpointed = tiny_backbone(), tiny_backbone(checkpoint_stages=STAGES)
    assert list(checkpointed.state_dict()) == list(plain.state_dict())
    checkpointed.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 32, 32)
    close(checkpointed.eval()(images), plain.eval()(images))
    assert kept_bytes(checkpointed, images) == kept_bytes(plain, images)


def test_names_choose_the_stages() -> None:
    model = tiny_backbone(checkpoint_stages=("res3", "res5"))
    chosen = [name for name in STAGES if isinstance(getattr(model, name), CheckpointedStage)]
    assert chosen == ["res3", "res5"]
    assert model.stages == [getattr(model, name) for name in STAGES]


def test_stages_that_are_not_built_are_passed_over() -> None:
    model = tiny_backbone(out_features=("res3",), checkpoint_stages=STAGES)
    assert [isinstance(stage, CheckpointedStage) for stage in model.stages] == [True, True]


@pytest.mark.parametrize(
    "cfg",
    [
        tiny_config(CHECKPOINT_STAGES=["res2"]),
        tiny_deeplab2_config(AxialSWideRNet, CHECKPOINT_STAGES=["res2"]),
        tiny_deeplab2_config(MaXDeepLabSBackbone, CHECKPOINT_STAGES=["res2"]),
    ],
    ids=["axial_resnet", "axial_swidernet", "max_deeplab_s"],
)
def test_from_config(cfg: Any) -> None:
    model = build_backbone(cfg)
    assert [isinstance(stage, CheckpointedStage) for stage in model.stages] == [True] + [False] * 3


@pytest.mark.parametrize("backbone", [AxialSWideRNet, MaXDeepLabSBackbone])
def test_deeplab2s_backbones_refuse_unknown_stages(backbone: type) -> None:
    with pytest.raises(ValueError, match=r"CHECKPOINT_STAGES is \['res1'\]; .*'res2'.*'res5'"):
        tiny_deeplab2(backbone, checkpoint_stages=["res1"])


def test_a_string_is_no_list() -> None:
    with pytest.raises(ValueError, match="CHECKPOINT_STAGES is 'res2'; it must be a list"):
        tiny_backbone(checkpoint_stages="res2")


def kept_bytes(model: ResNet, images: Tensor) -> int:
    """Bytes that a forward keeps for the backward, each storage once, without parameters."""
    kept: dict[int, Tensor] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(images)
    sizes = [t.untyped_storage().nbytes() for place, t in kept.items() if place not in own]
    del outputs
    return sum(sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_training_keeps_the_inputs_of_the_blocks_alone(kind: str) -> None:
    images = torch.randn(2, 3, 64, 64)
    plain = of_kind(kind)
    stem = kept_bytes(of_kind(kind, out_features=("stem",)), images)
    inputs: list[int] = []
    for stage in plain.stages:
        for block in stage:
            block.register_forward_pre_hook(lambda _, args: inputs.append(args[0].nbytes))
    everything = kept_bytes(plain, images)
    one = kept_bytes(of_kind(kind, checkpoint_stages=["res2"]), images)
    fewest = kept_bytes(of_kind(kind, checkpoint_stages=STAGES), images)
    assert fewest < one < everything
    # Random numbers' state comes with every block.
    assert fewest - stem <= sum(inputs) + len(inputs) * 6000
    assert fewest - stem < (everything - stem) / 3
