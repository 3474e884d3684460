"""A converted authors' checkpoint computes what NumPy computes from the checkpoint itself."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from authors_checkpoint import authors_tensors
from axial_d2.backbone import AxialResNet
from axial_d2.weights import authors, authors_layouts
from axial_d2.weights.formats import convert
from numpy_authors import calibrated, forward

SIZE = 64
SETTINGS: dict[str, Any] = {
    "depth": 26,
    "width_multiplier": 0.125,
    "stem": "conv7",
    "stem_width_multiplier": 0.25,
    "striding": "avg_pool",
    "max_span": SIZE // 4,
    "out_features": ("res2", "res3", "res4", "res5"),
}
TOLERANCE = 1e-4


@cache
def checkpoint(size: int = SIZE, **options: Any) -> dict[str, torch.Tensor]:
    """Random weights, with statistics of norms that belong to the image."""
    tensors = authors_tensors(image_size=size, **options)
    arrays = calibrated(as_arrays(tensors), pixels(size))
    return {name: torch.as_tensor(arrays[name]).to(t.dtype) for name, t in tensors.items()}


def as_arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def pixels(size: int) -> np.ndarray:
    return image(size, size)[0].double().numpy()


@cache
def expected() -> dict[str, np.ndarray]:
    return forward(as_arrays(checkpoint()), pixels(SIZE))


def image(height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def converted_model(**changes: Any) -> AxialResNet:
    model = AxialResNet(**(SETTINGS | changes))
    report = convert(checkpoint(), model)
    assert report.unfilled == []
    model.load_state_dict(report.converted)
    return model.double().eval()


def deviation(model: AxialResNet, feature: str = "res5") -> float:
    """The largest difference, relative to the maximum."""
    with torch.no_grad():
        ours = model(image().to(model.stem.conv1.weight.dtype))[feature][0].numpy()
    theirs = expected()[feature]
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("feature", ["res2", "res3", "res4", "res5"])
def test_equals_the_definition(feature: str) -> None:
    assert deviation(converted_model(), feature) < 1e-6


@pytest.mark.parametrize("width", [0.125, 0.375])
def test_fifty_layers(width: float) -> None:
    """50-S, M and L differ in their width alone; M's is no power of two."""
    source = checkpoint(SIZE, blocks=(3, 4, 6, 3), width=width)
    changes = {"depth": 50, "width_multiplier": width}
    model = AxialResNet(**(SETTINGS | changes)).eval()
    model.load_state_dict(convert(source, model).converted)
    expected = forward(as_arrays(source), pixels(SIZE))
    with torch.no_grad():
        given = model(image())
    for feature in ("res2", "res5"):
        difference = np.abs(given[feature][0].numpy() - expected[feature]).max()
        assert difference / np.abs(expected[feature]).max() < TOLERANCE, feature


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
def test_single_precision_is_enough(implementation: str) -> None:
    assert deviation(converted_model(attention_impl=implementation).float()) < TOLERANCE


def test_longer_tables_change_nothing_at_the_training_size() -> None:
    model, longer = converted_model(), converted_model(max_span=255)
    with torch.no_grad():
        a, b = model(image().double()), longer(image().double())
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("size", [(96, 64), (50, 41), (129, 33)])
def test_any_size(size: tuple[int, int]) -> None:
    """Beyond the tables, their last rows are shared, however long our copies of them are."""
    with torch.no_grad():
        a, b = (
            converted_model(max_span=span)(image(*size).double())["res5"]
            for span in (SIZE // 4, 255)
        )
    assert a.shape[2:] == tuple(-(-side // 32) for side in size)
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def contiguous(packed: torch.Tensor, num_heads: int) -> torch.Tensor:
    """As if query, key and value were not packed by head."""
    return packed


LAYOUTS = {
    "heads not unpacked": ("unpack_heads", contiguous),
    "halves not separated": ("separate", lambda tensor: tensor),
    "position before content": (
        "separate",
        lambda tensor: torch.cat([tensor[1::2], tensor[0::2]]),
    ),
}
TABLES = {
    "query offsets": ("query_table", lambda r: authors_layouts.query_table(r).flip(0)),
    "key offsets": ("key_table", lambda r: authors_layouts.key_table(r).flip(0)),
    "value offsets": ("value_table", lambda r: authors_layouts.value_table(r).flip(0)),
    "key's table for the query": ("query_table", lambda r: authors_layouts.key_table(r).flip(0)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_notices_another_layout(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, wrong = LAYOUTS[name]
    monkeypatch.setattr(authors_layouts, function, wrong)
    assert deviation(converted_model()) > 10 * TOLERANCE


@pytest.mark.parametrize("name", TABLES)
def test_notices_the_sign_of_offsets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, wrong = TABLES[name]
    monkeypatch.setitem(authors.TABLES, table, wrong)
    assert deviation(converted_model()) > 10 * TOLERANCE


@pytest.mark.parametrize("changes", [{"norm_eps": 1e-3}, {"striding": "subsample"}], ids=str)
def test_notices_another_setting_and_says_so(changes: dict[str, Any]) -> None:
    assert deviation(converted_model(**changes)) > TOLERANCE
    report = convert(checkpoint(), AxialResNet(**(SETTINGS | changes)))
    key = next(iter(changes)).upper()
    assert any(f"{key} " in note and "the model has" in note for note in report.notes)


def test_says_nothing_where_the_settings_agree() -> None:
    model = AxialResNet(**(SETTINGS | {"max_span": 1}))
    notes = convert(checkpoint(), model).notes
    assert not [note for note in notes if "the model has" in note]


def test_notices_another_order_of_logits() -> None:
    model = converted_model()
    for module in model.modules():
        norm = getattr(module, "logit_norm", None)
        if norm is not None:
            for name in ("weight", "running_var"):
                tensor = getattr(norm, name)
                tensor.data = tensor.data.view(3, -1).roll(1, 0).flatten()
    assert deviation(model) > 10 * TOLERANCE
