"""The authors' checkpoints in both directions: names, layouts, counts, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from authors_checkpoint import Tensors, authors_tensors
from axial_d2.backbone import AxialResNet
from axial_d2.weights import authors_layouts as layouts
from axial_d2.weights.authors_export import export_to_authors
from axial_d2.weights.authors_shapes import BlockSize, authors_shapes
from axial_d2.weights.core import WeightsError
from axial_d2.weights.formats import FORMATS, convert, recognise
from axial_d2.weights.name_tables import Block
from torch import nn

# Name of a model → blocks, width, parameters with a layer of 1000 classes.
MODELS = {
    "axial26s": ((1, 2, 4, 1), 0.5, 5_944_936),
    "axial50s": ((3, 4, 6, 3), 0.5, 11_586_216),
    "axial50m": ((3, 4, 6, 3), 0.75, None),
    "axial50l": ((3, 4, 6, 3), 1.0, None),
}
SETTINGS: dict[str, Any] = {
    "depth": 26,
    "width_multiplier": 0.125,
    "stem": "conv7",
    "stem_width_multiplier": 0.25,
    "striding": "avg_pool",
    "max_span": 16,
}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "flatten_index")


def small_model(**changes: Any) -> AxialResNet:
    return AxialResNet(**(SETTINGS | changes))


def random_model(**changes: Any) -> AxialResNet:
    model = small_model(**changes)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 1)
        else:
            tensor.fill_(7)
    return model


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def with_head(model: nn.Module) -> nn.ModuleDict:
    """A model whose backbone has a prefix and company."""
    return nn.ModuleDict({"backbone": model, "head": nn.Conv2d(4, 4, 1)})


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_every_model_has_a_place(name: str) -> None:
    """At full width, of which only the shapes count; ``fc`` has no counterpart in a backbone."""
    blocks, width, parameters = MODELS[name]
    source = authors_tensors(
        blocks=blocks,
        width=width,
        stem_channels=int(64 * width),
        image_size=224,
        num_classes=1000,
    )
    if parameters is not None:
        counted = (t.numel() for n, t in source.items() if not n.endswith(BUFFERS))
        assert sum(counted) == parameters
    with torch.device("meta"):
        model = AxialResNet(
            depth=26 if blocks[0] == 1 else 50,
            width_multiplier=width,
            stem="conv7",
            striding="avg_pool",
        )
    report = convert(source, model)
    assert report.unfilled == []
    assert set(report.used) | set(report.ignored) == source.keys()
    ignored = {n for n in source if n.endswith(".flatten_index")} | {"fc.weight", "fc.bias"}
    assert report.ignored.keys() == ignored
    assert all(t.shape == model.state_dict()[n].shape for n, t in report.converted.items())


def test_the_config_follows_from_the_checkpoint() -> None:
    for depth, blocks in ((26, (1, 2, 4, 1)), (50, (3, 4, 6, 3))):
        source = authors_tensors(blocks=blocks)
        options = recognise(source).options(source)
        node = dict(zip(options[::2], options[1::2], strict=True))
        values = {key.rpartition(".")[2]: value for key, value in node.items()}
        assert values == {
            "NAME": "build_axial_resnet_backbone",
            "DEPTH": depth,
            "WIDTH_MULTIPLIER": 0.125,
            "STEM": "conv7",
            "STEM_WIDTH_MULTIPLIER": 0.25,
            "STRIDING": "avg_pool",
            "NUM_HEADS": 8,
            "SPAN": 0,
            "MAX_SPAN": 16,
            "NORM_EPS": 1e-5,
        }


def test_there_and_back_again() -> None:
    source = authors_tensors()
    for model in (small_model(), small_model(max_span=255), with_head(small_model())):
        ours = convert(source, model).converted
        exported = export_to_authors(ours, image_size=64).converted
        assert same(exported, {n: t for n, t in source.items() if not n.startswith("fc.")})


def test_back_and_there_again() -> None:
    """Where axes are no shorter than our tables, nothing of these is cut."""
    model = random_model(max_span=2)
    exported = export_to_authors(model.state_dict(), image_size=64)
    assert exported.unfilled == []
    assert same(convert(exported.converted, model).converted, model.state_dict())


def test_cutting_tables_for_short_axes_is_said() -> None:
    model = random_model(max_span=16)
    exported = export_to_authors(model.state_dict(), image_size=64)
    assert (
        "position tables of 31 rows cut or continued (repeating the last row) to "
        in (exported.notes[0])
    )
    ours = convert(exported.converted, model).converted
    for name, tensor in model.state_dict().items():
        if not name.endswith("_table"):
            assert torch.equal(tensor, ours[name])
    name = "res5.0.width_axis.query_table"  # axes of 4 positions
    before, after = model.state_dict()[name], ours[name]
    middle = slice(15 - 3, 15 + 4)
    assert torch.equal(after[middle], before[middle])
    assert torch.equal(after[:12], before[12:13].expand(12, -1))


def test_the_classifier_goes_along() -> None:
    class WithClassifier(AxialResNet):
        def __init__(self) -> None:
            super().__init__(**SETTINGS)
            self.linear = nn.Linear(256, 10)

    source = authors_tensors(num_classes=10)
    report = convert(source, WithClassifier())
    assert torch.equal(report.converted["linear.weight"], source["fc.weight"])
    assert torch.equal(report.converted["linear.bias"], source["fc.bias"])
    assert same(export_to_authors(report.converted, image_size=64).converted, source)
    other = convert(authors_tensors(num_classes=4), WithClassifier())
    assert other.skipped.keys() == {"linear.weight", "linear.bias"}
    assert "4 output channels in the checkpoint and 10 in the model" in other.text()


def test_the_classifier_may_be_beside_the_backbone() -> None:
    """As ``linear`` of a classifying meta-architecture."""
    source = authors_tensors(num_classes=10)
    model = nn.ModuleDict({"backbone": small_model(), "linear": nn.Linear(256, 10)})
    report = convert(source, model)
    assert report.unfilled == []
    assert torch.equal(report.converted["linear.weight"], source["fc.weight"])
    exported = export_to_authors(report.converted, image_size=64)
    assert same(exported.converted, source)
    assert exported.ignored == {}


def test_frozen_norms_have_no_counters() -> None:
    report = convert(authors_tensors(), small_model(norm="FrozenBN"))
    assert report.unfilled == []
    assert any(name.endswith("num_batches_tracked") for name in report.ignored)
    without = {n: t for n, t in authors_tensors().items() if not n.endswith("num_batches_tracked")}
    report = convert(without, small_model())
    assert report.unfilled
    assert all(name.endswith("num_batches_tracked") for name in report.unfilled)


def test_our_shapes_of_their_checkpoints_are_right() -> None:
    """The checkpoints of these tests, written independently, have them."""
    source = authors_tensors()
    sizes = [
        BlockSize(Block(2, 0), 16, 16, 32),
        *(BlockSize(Block(3, i), 64 if i else 32, 32, 64) for i in range(2)),
        *(BlockSize(Block(4, i), 128 if i else 64, 64, 128) for i in range(4)),
        BlockSize(Block(5, 0), 128, 128, 256),
    ]
    shapes = authors_shapes(16, sizes, 8, num_classes=10, image_size=64)
    assert shapes == {name: tensor.shape for name, tensor in source.items()}


class TestLayouts:
    """Worked by hand: two heads with one query, one key and two value channels each."""

    packed = torch.tensor([1, 2, 3, 4, 10, 20, 30, 40])  # q k v v of either head
    ours = torch.tensor([1, 10, 2, 20, 3, 4, 30, 40])  # q q | k k | v v v v

    def test_heads(self) -> None:
        assert torch.equal(layouts.unpack_heads(self.packed, 2), self.ours)
        assert torch.equal(layouts.pack_heads(self.ours, 2), self.packed)

    def test_projection(self) -> None:
        weight = self.packed[:, None, None] * torch.tensor([1, 100])[:, None]  # [8, 2, 1]
        unpacked = layouts.unpack_qkv(weight, 2)
        assert unpacked.shape == (8, 2, 1, 1)
        assert torch.equal(unpacked[:, 0, 0, 0], self.ours)
        assert torch.equal(layouts.pack_qkv(unpacked, 2), weight)

    def test_interleaving(self) -> None:
        interleaved = torch.tensor([1, -1, 2, -2, 3, -3])
        separated = torch.tensor([1, 2, 3, -1, -2, -3])
        assert torch.equal(layouts.separate(interleaved), separated)
        assert torch.equal(layouts.interleave(separated), interleaved)

    def test_tables(self) -> None:
        """Columns are the offsets -1, 0, 1: query - key for q and v, key - query for k."""
        relative = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]])
        query = torch.tensor([[3], [2], [1]])
        key = torch.tensor([[4], [5], [6]])
        value = torch.tensor([[9, 12], [8, 11], [7, 10]])
        assert torch.equal(layouts.query_table(relative), query)
        assert torch.equal(layouts.key_table(relative), key)
        assert torch.equal(layouts.value_table(relative), value)
        assert torch.equal(layouts.join_tables(query, key, value, 2), relative)

    def test_derived_index(self) -> None:
        index = layouts.flatten_index(torch.empty(0), 3)
        assert index.tolist() == [2, 1, 0, 3, 2, 1, 4, 3, 2]


class TestWhatDoesNotFit:
    def test_another_depth(self) -> None:
        words = r"\(1, 2, 4, 1\) blocks in their stages, the model \(3, 4, 6, 3\)"
        with pytest.raises(WeightsError, match=words) as error:
            convert(authors_tensors(), small_model(depth=50))
        assert "belong to MODEL.BACKBONE.NAME build_axial_resnet_backbone" in str(error.value)
        assert "MODEL.AXIAL_RESNET.DEPTH 26" in str(error.value)

    def test_another_width(self) -> None:
        words = r"layer1.0.conv_down.weight of shape \(16, 16, 1, 1\).* has \(32, 16, 1, 1\)"
        with pytest.raises(WeightsError, match=words):
            convert(authors_tensors(), small_model(width_multiplier=0.25))

    def test_other_heads(self) -> None:
        with pytest.raises(WeightsError, match=r"bn_similarity.weight of shape \(24,\) comes to"):
            convert(authors_tensors(), small_model(num_heads=4))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (
                {"stem": "deeplab"},
                "the model has stem.conv2.weight, which the authors' models lack",
            ),
            (
                {"stage_types": ["conv", "axial", "axial", "axial"]},
                "res2.0 of the model has no axial attention",
            ),
        ],
        ids=["stem", "stage type"],
    )
    def test_another_backbone(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(WeightsError, match=words):
            convert(authors_tensors(), small_model(**changes))

    def test_no_backbone(self) -> None:
        with pytest.raises(WeightsError, match="the model has no backbone with stages"):
            convert(authors_tensors(), nn.Linear(1, 1))

    def test_a_tensor_that_is_missing_or_unknown(self) -> None:
        source = authors_tensors()
        del source["layer3.2.width_block.relative"]
        with pytest.raises(WeightsError, match=r"needs layer3.2.width_block.relative, not in"):
            convert(source, small_model())
        source = authors_tensors() | {"layer2.0.se.weight": torch.ones(1)}
        with pytest.raises(WeightsError, match=r"layer2.0.se.weight of the source has no place"):
            convert(source, small_model())

    def test_no_model_of_the_authors_has_these_blocks(self) -> None:
        source = authors_tensors(blocks=(1, 1, 1, 1))
        with pytest.raises(WeightsError, match=r"\(1, 1, 1, 1\) blocks in its stages"):
            recognise(source).options(source)

    def test_what_the_authors_cannot_build_is_not_exported(self) -> None:
        mixed = small_model(stage_types=["axial", "axial", "conv", "axial"])
        with pytest.raises(WeightsError, match=r"res4.0 is no block of axial attention"):
            export_to_authors(mixed.state_dict())
        with pytest.raises(WeightsError, match=r"stem.conv2.weight of the source has no place"):
            export_to_authors(small_model(stem="deeplab").state_dict())

    def test_a_format_that_nobody_knows(self) -> None:
        with pytest.raises(WeightsError, match=r"2 tensors \(a, b, …\), which is none") as error:
            recognise({"a", "b"})
        assert all(name in str(error.value) for name in FORMATS)
