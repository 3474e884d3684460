"""What changes where a model has other tables or another number of classes."""

from __future__ import annotations

import pytest
import torch
from axial_d2.layers import AxialAttention
from axial_d2.weights.transfer import fit, resize_table

TABLE = torch.tensor([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]])  # offsets -1, 0, 1


def test_a_table_grows_by_its_last_rows() -> None:
    assert resize_table(TABLE, 7)[:, 0].tolist() == [1, 1, 1, 2, 3, 3, 3]
    assert resize_table(TABLE, 7)[:, 1].tolist() == [-1, -1, -1, -2, -3, -3, -3]


def test_a_table_shrinks_around_offset_0() -> None:
    table = torch.arange(9).view(9, 1)
    assert resize_table(table, 5)[:, 0].tolist() == [2, 3, 4, 5, 6]
    assert resize_table(table, 1)[:, 0].tolist() == [4]


@pytest.mark.parametrize("rows", [3, 9, 509])
def test_shrinking_undoes_growing(rows: int) -> None:
    assert torch.equal(resize_table(resize_table(TABLE, rows), 3), TABLE)


@pytest.mark.parametrize("length", [1, 4, 9])
def test_growing_leaves_attention_as_it_is_at_every_length(length: int) -> None:
    layer = AxialAttention(8, 8, 8, "height", num_heads=2, max_span=3).eval()
    longer = AxialAttention(8, 8, 8, "height", num_heads=2, max_span=6).eval()
    state = layer.state_dict()
    for name in ("query_table", "key_table", "value_table"):
        fitted = fit(name, state[name], (11, 4))
        assert fitted is not None
        assert "grown from 5 to 11 rows" in fitted.change
        state[name] = fitted.tensor
    longer.load_state_dict(state)
    image = torch.randn(1, 8, length, 2)
    with torch.no_grad():
        assert torch.equal(layer(image), longer(image))


def test_shrinking_says_which_offsets_change() -> None:
    fitted = fit("backbone.res2.0.width_axis.value_table", TABLE, (1, 2))
    assert fitted is not None
    assert fitted.change == (
        "position table shrunk from 3 to 1 rows, cut on both sides of offset 0 (offsets beyond ±0 "
        "now share its last rows)"
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("query_table", (5, 3)),  # channels
        ("query_table", (6, 2)),  # no row in the middle
        ("absolute_table", (5, 2)),  # no position table
        ("conv.weight", (5, 2)),
        ("predictor.weight", (3, 4)),  # input channels
        ("sem_seg_head.head.weight", (5, 2)),
    ],
)
def test_anything_else_does_not_fit(name: str, shape: tuple[int, int]) -> None:
    assert fit(name, TABLE, shape) is None


@pytest.mark.parametrize(
    "name",
    [
        "sem_seg_head.predictor.weight",
        "roi_heads.box_predictor.cls_score.weight",
        "backbone.linear.weight",
    ],
)
def test_predictors_of_other_classes_are_skipped(name: str) -> None:
    fitted = fit(name, TABLE, (8, 2))
    assert fitted is not None
    assert fitted.tensor is None
    assert "3 output channels in the checkpoint and 8 in the model" in fitted.change
    assert fit(name, TABLE, (3, 2)).tensor is TABLE  # type: ignore[union-attr]
