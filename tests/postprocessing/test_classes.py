"""The highest of the class probabilities."""

from __future__ import annotations

import pytest
import torch
from axial_d2.postprocessing import classes, panoptic_segments
from axial_d2.postprocessing.classes import class_mask, most_probable
from torch import Tensor


def assert_is_max(probabilities: Tensor) -> None:
    highest, semantic = most_probable(probabilities)
    # NumPy's takes the first of equal ones, by its documentation.
    expected = torch.from_numpy(probabilities.double().numpy().argmax(axis=0))
    assert torch.equal(semantic, expected)
    assert semantic.dtype == torch.int64
    assert torch.equal(highest, probabilities.amax(dim=0))


@pytest.mark.parametrize("num_classes", [1, 2, 19, 255, 256, 300])
def test_ties_go_to_the_lowest_class(num_classes: int) -> None:
    assert_is_max(torch.randint(0, 4, (num_classes, 7, 9)) / 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_and_zeros(dtype: torch.dtype) -> None:
    assert_is_max(torch.rand(5, 6, 7).to(dtype))
    assert_is_max(torch.zeros(5, 6, 7, dtype=dtype))


@pytest.mark.parametrize("elements", [1, 50, 64, 10**9])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(classes, "CACHED_ELEMENTS", elements)
    assert_is_max(torch.rand(5, 11, 13))
    assert_is_max(torch.rand(5, 13, 11).mT)  # strides of a view


def test_what_is_no_number_has_some_class() -> None:
    probabilities = torch.rand(4, 2, 3)
    probabilities[:, 0, 1] = torch.nan
    highest, semantic = most_probable(probabilities)
    assert highest.isnan().sum() == 1
    assert 0 <= semantic.min() <= semantic.max() <= 3


def test_a_map_with_gradients_is_segmented_without() -> None:
    probabilities = torch.rand(3, 4, 5, requires_grad=True)
    maps = (probabilities.softmax(dim=0), torch.rand(4, 5), torch.zeros(2, 4, 5))
    assert not panoptic_segments(*maps, [1]).scores.requires_grad


def test_class_mask() -> None:
    mask = class_mask({3, 1}, 5, torch.device("cpu"))
    assert mask.tolist() == [False, True, False, True, False]
    assert not class_mask((), 2, torch.device("cpu")).any()
