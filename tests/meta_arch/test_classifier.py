"""The image classifier: what it predicts and learns, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from axial_d2 import add_axial_deeplab_config
from axial_d2.meta_arch import ImageClassifier
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from semantic_models import SmallBackbone
from torch import Tensor

CLASSES = 5
MEAN, STD = [100.0, 110.0, 120.0], [50.0, 51.0, 52.0]


def make(**options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    arguments = {
        "backbone": SmallBackbone(),
        "num_classes": CLASSES,
        "pixel_mean": MEAN,
        "pixel_std": STD,
    }
    return ImageClassifier(**(arguments | options))


def image(height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def labelled(labels: list[int], **size: int) -> list[dict]:
    return [{"image": image(seed=i, **size), "label": label} for i, label in enumerate(labels)]


def by_hand(model: ImageClassifier, pixels: Tensor) -> Tensor:
    normalised = (pixels.float() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    pooled = model.backbone(normalised[None])["res5"].mean((2, 3))
    return F.linear(pooled, model.linear.weight, model.linear.bias)[0]


def test_prediction_is_the_linear_layer_of_the_mean_feature() -> None:
    model = make().eval()
    (result,) = model([{"image": image()}])
    assert result["logits"].shape == (CLASSES,)
    torch.testing.assert_close(result["logits"], by_hand(model, image()))


def test_a_prediction_does_not_depend_on_its_company() -> None:
    model = make().eval()
    sizes = [(16, 16), (20, 12), (16, 16), (17, 23), (20, 12)]
    inputs = [{"image": image(*size, seed=i)} for i, size in enumerate(sizes)]
    together = model(inputs)
    for given, alone in zip(together, inputs, strict=True):
        torch.testing.assert_close(given["logits"], model([alone])[0]["logits"])


def test_padding_to_the_strides_of_the_backbone_is_not_pooled() -> None:
    """SmallBackbone pads 17 x 14 to 20 x 16; of a map of 5 x 4 all cells see the image."""
    model = make().eval()
    seen = {}
    model.backbone.register_forward_hook(lambda _, inputs, output: seen.update(i=inputs[0]))
    model([{"image": image(17, 14)}])
    assert seen["i"].shape == (1, 3, 20, 16)
    assert (seen["i"][..., 17:, :] == 0).all()

    class Coarse(SmallBackbone):
        size_divisibility = 16

    torch.manual_seed(0)
    padded = make(backbone=Coarse()).eval()
    padded.load_state_dict(model.state_dict())
    pixels = image(12, 12)
    (result,) = padded([{"image": pixels}])
    inside = (pixels.float() - model.pixel_mean) / model.pixel_std
    features = padded.backbone(F.pad(inside, (0, 4, 0, 4))[None])["res5"]
    expected = padded.linear(features[..., :3, :3].mean((2, 3)))[0]
    torch.testing.assert_close(result["logits"], expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy(smoothing: float) -> None:
    model = make(label_smoothing=smoothing)
    inputs = labelled([3, 0, 4])
    logits = torch.stack([by_hand(model, i["image"]) for i in inputs]).double()
    shares = torch.full((3, CLASSES), smoothing / CLASSES, dtype=torch.float64)
    for row, label in enumerate([3, 0, 4]):
        shares[row, label] += 1 - smoothing
    expected = -(shares * logits.log_softmax(1)).sum(1).mean()
    with EventStorage() as storage:
        (loss,) = model(inputs).values()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    correct = (logits.argmax(1) == torch.tensor([3, 0, 4])).float().mean()
    assert storage.latest()["classifier/top1"][0] == pytest.approx(correct.item())


def test_losses_have_their_name_and_need_no_storage() -> None:
    assert list(make()(labelled([1]))) == ["loss_classification"]  # a batch of one, too


def test_mixup_mixes_images_and_labels_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(mixup_alpha=0.4)
    inputs = labelled([3, 0])
    seen: dict[str, Tensor] = {}
    monkeypatch.setattr(
        "axial_d2.meta_arch.classifier.F.cross_entropy",
        lambda logits, targets, **_: seen.update(targets=targets) or logits.sum(),
    )
    model.backbone.register_forward_pre_hook(lambda _, args: seen.update(images=args[0]))
    torch.manual_seed(3)
    model(inputs)
    shares, mixed = seen["targets"], seen["images"]
    assert shares.sum(1) == pytest.approx([1, 1])
    share = shares[0, 3].item()
    assert 0 < share < 1
    assert shares[1, 0].item() == pytest.approx(share)
    plain = [(i["image"] - model.pixel_mean) / model.pixel_std for i in inputs]
    torch.testing.assert_close(mixed[0], share * plain[0] + (1 - share) * plain[1])
    torch.testing.assert_close(mixed[1], share * plain[1] + (1 - share) * plain[0])
    model.eval()
    model(inputs)  # no labels are mixed at test


def test_mixup_with_one_image_leaves_it() -> None:
    model = make(mixup_alpha=1.0)
    expected = make()(labelled([2]))["loss_classification"]
    torch.testing.assert_close(model(labelled([2]))["loss_classification"], expected)


def test_dropout_is_for_training_alone() -> None:
    model = make(dropout=0.5)
    torch.manual_seed(0)
    losses = {model(labelled([1, 2]))["loss_classification"].item() for _ in range(4)}
    assert len(losses) == 4
    model.eval()
    torch.testing.assert_close(model([{"image": image()}])[0]["logits"], by_hand(model, image()))


def test_a_few_images_are_learnt() -> None:
    model = make()
    inputs = labelled([0, 1, 2, 3])
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        (loss,) = model(inputs).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    model.eval()
    assert [r["logits"].argmax().item() for r in model(inputs)] == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_the_loss_is_computed_in_single_precision(dtype: torch.dtype) -> None:
    model = make()
    with torch.autocast("cpu", dtype=dtype):
        (loss,) = model(labelled([1, 2])).values()
        model.eval()
        (result,) = model([{"image": image()}])
    assert loss.dtype == result["logits"].dtype == torch.float32
    loss.backward()
    assert model.linear.weight.grad is not None


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ({"label": 5}, r"/pictures/a.png has the label 5; .*NUM_CLASSES - 1, here 4"),
        ({"label": -1}, "has the label -1"),
        ({}, "has no 'label'"),
    ],
)
def test_labels_out_of_range_name_the_image(label: dict, words: str) -> None:
    inputs = [{"image": image(), "file_name": "/pictures/a.png", **label}]
    with pytest.raises(ValueError, match=words):
        make()(inputs)


def test_training_images_of_several_sizes_are_refused() -> None:
    inputs = [*labelled([1]), *labelled([2], height=20)]
    with pytest.raises(ValueError, match=r"sizes \[\(3, 16, 16\), \(3, 20, 16\)\]; .*one size"):
        make()(inputs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 0}, "NUM_CLASSES is 0; it must be 1 or more"),
        ({"dropout": 1.0}, "DROPOUT is 1.0; it must be from 0"),
        ({"label_smoothing": 1.0}, "LABEL_SMOOTHING is 1.0; it must be from 0"),
        ({"mixup_alpha": -0.1}, "MIXUP_ALPHA is -0.1; it must be 0"),
        ({"in_feature": "res4"}, r"IN_FEATURE is 'res4', but .*SmallBackbone gives \('res5',\)"),
    ],
)
def test_values_out_of_range_name_their_key(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=rf"MODEL.CLASSIFIER.{words}"):
        make(**options)


@pytest.mark.parametrize(
    ("backbone", "opts"),
    [
        ("build_resnet_backbone", ["MODEL.RESNETS.OUT_FEATURES", ["res5"]]),
        ("build_resnet_fpn_backbone", [
            "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"],
            "MODEL.CLASSIFIER.IN_FEATURE", "p5",
        ]),
        ("build_max_deeplab_s_backbone", ["MODEL.MAX_DEEPLAB_S.WIDTH_MULTIPLIER", 0.125]),
        ("build_axial_swidernet_backbone", ["MODEL.AXIAL_SWIDERNET.WIDTH_MULTIPLIER", 0.0625]),
        ("build_vgg16_largefov_backbone", [
            "MODEL.VGG16_LARGEFOV.WIDTH_MULTIPLIER", 0.125, "MODEL.CLASSIFIER.IN_FEATURE", "fc7",
        ]),
    ],
)  # fmt: skip
def test_any_backbone_by_config(backbone: str, opts: list) -> None:
    cfg = get_cfg()
    add_axial_deeplab_config(cfg)
    cfg.merge_from_list([
        "MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "ImageClassifier",
        "MODEL.BACKBONE.NAME", backbone, "MODEL.CLASSIFIER.NUM_CLASSES", 3,
        "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.DEPTH", 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.MAX_DEEPLAB_S.NORM", "BN",
        "MODEL.AXIAL_SWIDERNET.NORM", "BN", *opts,
    ])  # fmt: skip
    model = build_model(cfg)
    inputs = labelled([0, 2], height=64, width=64)
    (loss,) = model(inputs).values()
    loss.backward()
    model.eval()
    with torch.no_grad():
        assert [r["logits"].shape for r in model(inputs)] == [(3,), (3,)]
    assert all(p.grad is not None for p in model.linear.parameters())
