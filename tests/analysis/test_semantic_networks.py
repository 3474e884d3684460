"""Costs of DANet and of Attention to Scale, by hand."""

from __future__ import annotations

from pathlib import Path

from axial_d2.analysis import analyze
from axial_d2.engine.setup import load_config

CITYSCAPES = Path(__file__).parents[2] / "configs" / "cityscapes"


def load(name: str, *opts: object):
    return load_config(str(CITYSCAPES / f"{name}.yaml"), ["MODEL.DEVICE", "cpu", *opts])


def test_position_attention_counts_all_pairs_at_their_own_channels() -> None:
    cost = analyze(load("dual_attention/danet_resnet50"), (256, 512))
    positions = 32 * 64
    assert cost.by_operator["attention.query_key"] == positions**2 * 64
    assert cost.by_operator["attention.value_content"] == positions**2 * 512
    assert cost.by_operator["matrix_product"] == 2 * 512**2 * positions  # channel attention
    assert not cost.unsupported_operators


def test_scales_cost_what_their_areas_say() -> None:
    def products(*scales: float) -> int:
        name = "scale_attention/vgg16_largefov"
        options = ("MODEL.SCALE_ATTENTION.SCALES", repr(scales))
        cost = analyze(load(name, *options), (256, 512))
        assert not cost.unsupported_operators
        assert not cost.uncalled_modules
        return cost.multiply_adds

    positions = 32 * 64

    def attention_net(count: int) -> int:
        return positions * (9 * 1024 * count * 512 + 512 * count)

    network = products(1.0) - attention_net(1)
    # Half of each side is a quarter of every map of even size, as these all are.
    assert products(1.0, 0.5) == network + network // 4 + attention_net(2)
