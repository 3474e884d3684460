"""Attention to Scale: its identities, losses, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from axial_d2.heads import DualAttentionHead, LinearSemSegHead
from axial_d2.layers import ScaleAttention
from axial_d2.meta_arch import ScaleAttentionSegmentor
from axial_d2.meta_arch.scale_attention import MERGING_CHOICES, scores_and_features
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.projects.deeplab import DeepLabV3Head, DeepLabV3PlusHead, add_deeplab_config
from semantic_models import CLASSES, STRIDE, example, parts, plain, scales, with_weights_of
from torch import nn

SIZES = [(16, 24), (13, 19)]


def with_opinion(model: ScaleAttentionSegmentor) -> ScaleAttentionSegmentor:
    """An attention net that has left its start, where all scales count alike."""
    assert model.attention is not None
    nn.init.normal_(model.attention.scales.weight, std=2.0)
    return model


def normalised(inputs: dict) -> torch.Tensor:
    return torch.randn(1, *inputs["image"].shape)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("merging", MERGING_CHOICES)
def test_one_scale_is_the_plain_network(size: tuple[int, int], merging: str) -> None:
    network = plain()
    model = with_weights_of(scales(scales=(1.0,), merging=merging), network)
    inputs = [{**example(*size), "height": 30, "width": 31}]
    torch.testing.assert_close(model(inputs)[0]["sem_seg"], network(inputs)[0]["sem_seg"])
    model.train()
    network.train()
    losses, expected = model(inputs), network(inputs)["loss_sem_seg"]
    assert list(losses) == ["loss_sem_seg", "loss_scale_1"]
    for loss in losses.values():
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("size", SIZES)
def test_equal_weights_are_the_average(size: tuple[int, int]) -> None:
    attention, inputs = scales(), [example(*size)]
    average = with_weights_of(scales(merging="average"), attention)
    expected = average(inputs)[0]["sem_seg"]
    torch.testing.assert_close(attention(inputs)[0]["sem_seg"], expected)
    with_opinion(attention)
    assert not torch.allclose(attention(inputs)[0]["sem_seg"], expected, atol=1e-3)


@pytest.mark.parametrize("norm", ["", "BN"])
def test_the_attention_net_starts_undecided_at_any_features(norm: str) -> None:
    net = ScaleAttention(6, 3, channels=5, norm=norm)
    features = [torch.randn(2, 6, 4, 7) * 100 for _ in range(3)]
    torch.testing.assert_close(net(features), torch.full((2, 3, 4, 7), 1 / 3))
    assert (net.hidden.norm is None) == (norm == "")
    assert (net.hidden.bias is None) == (norm == "BN")


@pytest.mark.parametrize("size", SIZES)
def test_weights_sum_to_one_and_are_shared_by_all_classes(size: tuple[int, int]) -> None:
    model = with_opinion(scales(scales=(1.0, 0.75, 0.5)))
    images = normalised(example(*size))
    weights = model.scale_weights(images)
    assert weights.shape == (1, 3, *size)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, *size))
    assert weights.std(dim=(0, 2, 3)).min() > 0.01
    # Were every scale to say the same for a class, the merged scores would say it too.
    maps = model.scale_maps(images, model.scales)
    constant = torch.randn(1, CLASSES, 1, 1)
    alike = [each._replace(scores=constant.expand_as(each.scores)) for each in maps]
    merged = model.merge(alike)
    torch.testing.assert_close(merged.scores, constant.expand_as(merged.scores))


def test_merged_scores_are_weighted_sums_of_resized_ones() -> None:
    model = with_opinion(scales(scales=(1.0, 0.5)))
    images = torch.randn(2, 3, 16, 32)
    half = F.interpolate(images, (8, 16), mode="bilinear", align_corners=False)
    fine, coarse = (
        scores_and_features(model.sem_seg_head, model.backbone(x)) for x in (images, half)
    )
    resized = [F.interpolate(x, (4, 8), mode="bilinear", align_corners=False) for x in coarse]
    weights = model.attention([fine[1], resized[1]])
    expected = weights[:, :1] * fine[0] + weights[:, 1:] * resized[0]
    merged = model.merge(model.scale_maps(images, model.scales))
    torch.testing.assert_close(merged.scores, expected)
    model.merging = "maximum"
    merged = model.merge(model.scale_maps(images, model.scales))
    torch.testing.assert_close(merged.scores, torch.maximum(fine[0], resized[0]))


@pytest.mark.parametrize("size", [(32, 32), (29, 37)])
@pytest.mark.parametrize("scale", [1.5, 0.75, 0.5])
def test_scales_lie_on_each_other(size: tuple[int, int], scale: float) -> None:
    """Scores that say in which column they are still say it when they are back at image size."""
    model = scales(scales=(1.0, scale), merging="average")
    columns = (torch.arange(size[1]) + 0.5).expand(1, 3, *size)

    def where(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": F.avg_pool2d(x, STRIDE)[:, :1]}

    model.backbone.forward = where
    model.sem_seg_head.predictor = nn.Identity()
    # Away from padding, and from where no further cell is.
    rows, inner = slice(-3 * STRIDE), slice(3 * STRIDE, -4 * STRIDE)
    given = model.scores(columns)[0, 0]
    torch.testing.assert_close(given[rows, inner], columns[0, 0, rows, inner], atol=0.05, rtol=0)


def test_losses_are_equally_weighted_cross_entropies_against_resized_truth() -> None:
    model = with_opinion(scales(scales=(1.0, 0.5))).train()
    batch = [example(16, 24), example(16, 24)]
    losses = model(batch)
    assert list(losses) == ["loss_sem_seg", "loss_scale_1", "loss_scale_0.5"]
    images = torch.stack([(x["image"] - model.pixel_mean) / model.pixel_std for x in batch])
    truth = torch.stack([x["sem_seg"] for x in batch])
    maps = model.scale_maps(images, model.scales)
    merged = model.merge(maps).scores
    half = truth[:, 1::2, 1::2]  # nearest to the middle of a pair, the later of the two
    for name, scores, labels in (
        ("loss_sem_seg", merged, truth),
        ("loss_scale_1", maps[0].scores, truth),
        ("loss_scale_0.5", maps[1].scores, half),
    ):
        size = labels.shape[-2:]
        up = F.interpolate(scores, size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(losses[name], F.cross_entropy(up, labels))
    model.scale_losses = False
    assert list(model(batch)) == ["loss_sem_seg"]


def test_images_of_many_sizes_train_together() -> None:
    model = scales().train()
    losses = model([example(16, 20), example(11, 23)])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.grad is not None for p in model.parameters())


def test_the_discriminator_is_an_option_beside_the_papers_losses() -> None:
    batch = [example(16, 16)]
    assert "loss_scale_discriminator" not in scales().train()(batch)
    model = scales(scale_discriminator=True).train()
    assert model.discriminator.out_channels == 1 + 3
    nn.init.zeros_(model.discriminator.weight)
    nn.init.zeros_(model.discriminator.bias)
    loss = model(batch)["loss_scale_discriminator"]
    torch.testing.assert_close(loss, torch.tensor(4.0).log())
    model.discriminator.bias.data[2] = 50.0  # always the second scale
    losses = [50.0, 50.0, 0.0, 50.0]
    loss = model(batch)["loss_scale_discriminator"]
    torch.testing.assert_close(loss, torch.tensor(sum(losses) / 4))


def test_inference_by_windows() -> None:
    whole = with_opinion(scales())
    windowed = with_weights_of(scales(window_size=(16, 16), window_stride=(8, 8)), whole)
    for size, same in (((16, 16), True), ((16, 40), False)):
        inputs = [example(*size)]
        given, expected = windowed(inputs)[0]["sem_seg"], whole(inputs)[0]["sem_seg"]
        assert given.shape == expected.shape
        assert torch.allclose(given, expected, atol=1e-5) == same


def _cfg(name: str, features: list[str]) -> Any:
    cfg = get_cfg()
    add_deeplab_config(cfg)
    node = cfg.MODEL.SEM_SEG_HEAD
    node.NAME, node.IN_FEATURES, node.NUM_CLASSES, node.NORM = name, features, CLASSES, ""
    node.CONVS_DIM, node.ASPP_CHANNELS, node.PROJECT_CHANNELS = 8, 8, [4]
    return cfg


def test_detectron2s_heads_serve() -> None:
    shapes = {name: ShapeSpec(channels=6, stride=4) for name in ("res2", "res5")}
    features = {name: torch.randn(1, 6, 5, 7) for name in shapes}
    for head_class, names in (
        (SemSegFPNHead, ["res5"]),
        (DeepLabV3PlusHead, ["res2", "res5"]),
        (DeepLabV3Head, ["res5"]),
    ):
        cfg = _cfg(head_class.__name__, names)
        cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE = 4
        head = head_class(cfg, shapes).eval()
        used = {name: features[name] for name in names}
        scores, before = scores_and_features(head, used)
        torch.testing.assert_close(head.predictor(before), scores)
        expected, _ = head(used)
        up = F.interpolate(scores, scale_factor=4, mode="bilinear", align_corners=False)
        torch.testing.assert_close(up, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_scales": (1.0, 0.5)}, r"TEST_SCALES \(1.0, 0.5\) are 2, but .* 3 SCALES"),
        ({"test_scales": (1.0,), "merging": "average"}, "TEST_SCALES .* are 1, but .* 3 SCALES"),
        ({"scales": ()}, r"SCALES is \(\)"),
        ({"scales": (1.0, 0.0)}, "SCALES .* ratios above 0"),
        ({"scales": (1.0, 1.0)}, "names a scale twice"),
        ({"merging": "mean"}, "MERGING is 'mean'.*'average'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scales(**options)


def test_other_scales_in_the_same_number_are_fine_at_test() -> None:
    model = scales(scales=(1.0, 0.5), test_scales=(1.5, 0.75))
    assert model([example(14, 18)])[0]["sem_seg"].shape == (CLASSES, 14, 18)


def test_a_head_without_a_predictor_is_refused() -> None:
    arguments = parts()
    arguments["sem_seg_head"] = nn.Conv2d(12, CLASSES, 1)
    with pytest.raises(ValueError, match="Conv2d has no predictor, losses, common_stride"):
        ScaleAttentionSegmentor(**arguments)


def test_the_maximum_has_no_weights_to_show() -> None:
    with pytest.raises(ValueError, match="'maximum', which has no weights"):
        scales(merging="maximum").scale_weights(torch.randn(1, 3, 16, 16))


def test_a_dual_attention_head_merges_its_fused_scores() -> None:
    arguments = parts()
    shape = {"res5": ShapeSpec(channels=12, stride=STRIDE)}
    arguments["sem_seg_head"] = DualAttentionHead(
        input_shape=shape, num_classes=CLASSES, channels=8, norm="BN"
    )
    model = ScaleAttentionSegmentor(**arguments, attention_channels=4)
    assert not isinstance(model.sem_seg_head, LinearSemSegHead)
    losses = model([example(16, 16)])
    assert set(losses) == {"loss_sem_seg", "loss_scale_1", "loss_scale_0.75", "loss_scale_0.5"}
    sum(losses.values()).backward()  # distributed training wants a gradient of all that learns
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
