"""Converted models compute what DeepLab2 computes, and a flipped convention shows.

The other side is :mod:`numpy_deeplab2`, which reads the checkpoint itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from deeplab2_models import (
    LAYOUTS,
    ON_GRID,
    OUTPUTS,
    PANOPTIC,
    TOLERANCE,
    checkpoint,
    converted,
    exact,
    exact_model,
    load,
    random_image,
    relative_error,
    run,
    scratch_model,
    shared_conversion,
    shared_model,
    softmax,
)
from numpy_deeplab2 import Conventions, NumpyDeepLab2
from torch import Tensor

State = dict[str, Tensor]
ENCODER = ("res5",)
RESIZED = tuple(f"{name}_resized" for name in ("probabilities", "center", "offset"))


def tolerance(name: str) -> float:
    return TOLERANCE.get(name.removesuffix("_resized"), 1e-3)


def expect(name: str, image: np.ndarray, conventions: Conventions | None = None) -> dict:
    """What the NumPy model computes."""
    results = NumpyDeepLab2(checkpoint(name), LAYOUTS[name].output_stride, conventions)(image)
    if "semantic_resized" in results:
        results["probabilities_resized"] = softmax(results["semantic_resized"])
    return results


@cache
def expected(name: str) -> dict[str, np.ndarray]:
    return expect(name, random_image())


@cache
def given(name: str) -> dict[str, np.ndarray]:
    return run(shared_model(name), random_image(), name in PANOPTIC)


def errors(results: dict, others: dict) -> dict[str, float]:
    """Relative to what is allowed; above 1 is too much."""
    names = results.keys() & others.keys()
    return {name: relative_error(results[name], others[name]) / tolerance(name) for name in names}


@pytest.mark.parametrize("name", LAYOUTS)
def test_features_and_outputs_equal_deeplab2s(name: str) -> None:
    found = errors(given(name), expected(name))
    names = {"res2", "res3", "res5"} | ({*OUTPUTS, *RESIZED} if name in PANOPTIC else set())
    assert found.keys() == names
    assert max(found.values()) < 1, found


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_difference_is_rounding(name: str) -> None:
    results = run(exact_model(name), random_image(), panoptic=False)
    for feature, result in results.items():
        assert relative_error(result, expected(name)[feature]) < 1e-10, feature


# What DeepLab2 would compute with one convention flipped, and where that has to show.
FLIPPED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "offsets query - key": ({"key_minus_query": False}, ENCODER),
    "heads innermost": ({"heads_outermost": False}, ENCODER),
    "epsilon": ({"epsilon": 1e-5}, ENCODER),
    "no ReLU after the stem": ({"activated_stem": False}, ENCODER),
    "pixels from 0": ({"pixel_offset": 0.0}, ENCODER),
    "epsilon of the heads": ({"head_epsilon": 1e-5}, OUTPUTS),
    "corners in decoders": ({"align_corners": False}, OUTPUTS),
    "corners of outputs": ({"align_output_corners": False}, RESIZED),
    "low level first": ({"high_level_first": False}, OUTPUTS),
    "no ReLU after depthwise": ({"relu_after_depthwise": False}, OUTPUTS),
}


@pytest.mark.parametrize(
    ("name", "flipped"),
    [(n, f) for n in LAYOUTS for f in FLIPPED if n in PANOPTIC or FLIPPED[f][1] == ENCODER],
)
def test_a_flipped_convention_shows(name: str, flipped: str) -> None:
    changes, places = FLIPPED[flipped]
    found = errors(given(name), expect(name, random_image(), replace(Conventions(), **changes)))
    for place in places:
        assert found[place] > 2, found


def change(state: State, ending: str, function: Callable[[Tensor], Tensor]) -> None:
    names = [name for name in state if name.endswith(ending)]
    assert names
    for name in names:
        state[name] = function(state[name]).contiguous()


def swap_tables(state: State) -> None:
    for name in [name for name in state if name.endswith("query_table")]:
        other = name.replace("query_table", "key_table")
        state[name], state[other] = state[other], state[name]


def swap_axes(state: State) -> None:
    for name in [name for name in state if ".height_axis." in name]:
        other = name.replace("height_axis", "width_axis")
        state[name], state[other] = state[other], state[name]


def turn_tables(state: State) -> None:
    for table in ("query_table", "key_table", "value_table"):
        change(state, table, lambda tensor: tensor.flip(0))


def rotate_terms(state: State) -> None:
    for part in ("weight", "running_var"):
        change(state, f"logit_norm.{part}", lambda tensor: tensor.roll(len(tensor) // 3))


def reverse_heads(state: State) -> None:
    change(state, "logit_norm.weight", lambda t: t.view(3, -1).flip(1).flatten())


def position_first(state: State) -> None:
    change(state, "retrieved_norm.weight", lambda tensor: tensor.roll(len(tensor) // 2))


def mirror_kernels(state: State) -> None:
    change(state, "stem.conv1.weight", lambda tensor: tensor.transpose(2, 3))


def forget_variance(state: State) -> None:
    change(state, "res5.2.conv3.norm.running_var", torch.ones_like)


CONVERTER = {
    function.__name__: function
    for function in (
        swap_tables,
        swap_axes,
        turn_tables,
        rotate_terms,
        reverse_heads,
        position_first,
        mirror_kernels,
        forget_variance,
    )
}


@pytest.mark.parametrize("mistake", CONVERTER)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_mistake_of_the_converter_shows(name: str, mistake: str) -> None:
    model, state = scratch_model(name), dict(shared_conversion(name).converted)
    CONVERTER[mistake](state)
    load(model, state)
    found = errors(run(model, random_image(), panoptic=False), expected(name))
    assert found["res5"] > 2, found


def high_level_first(state: State) -> None:
    for feature, low in (("res3", 64), ("res2", 32)):
        for part, dim in (("depthwise.weight", 0), ("pointwise.weight", 1)):
            ending = f"sem_seg_head.decoder.{feature}.fuse_conv.{part}"
            change(state, ending, partial(torch.roll, shifts=-low, dims=dim))


def x_before_y(state: State) -> None:
    for part in ("weight", "bias"):
        change(state, f"offset_predictor.{part}", lambda tensor: tensor.flip(0))


def negative_offsets(state: State) -> None:
    for part in ("weight", "bias"):
        change(state, f"offset_predictor.{part}", torch.neg)


def swap_heads(state: State) -> None:
    for name in [name for name in state if ".center_head." in name]:
        other = name.replace("center_head", "offset_head")
        state[name], state[other] = state[other], state[name]


BRANCHES: dict[Callable[[State], None], tuple[str, ...]] = {
    high_level_first: ("semantic",),
    x_before_y: ("offset",),
    negative_offsets: ("offset",),
    swap_heads: ("center", "offset"),
}


@pytest.mark.parametrize("mistake", BRANCHES, ids=lambda function: function.__name__)
def test_a_mistake_in_the_branches_shows(mistake: Callable[[State], None]) -> None:
    model = scratch_model("max_deeplab_s")
    state = dict(shared_conversion("max_deeplab_s").converted)
    mistake(state)
    load(model, state)
    found = errors(run(model, random_image()), expected("max_deeplab_s"))
    for place in BRANCHES[mistake]:
        assert found[place] > 2, found


# A config that is not DeepLab2's, and where that has to show.
SETTINGS = {
    "MODEL.PANOPTIC_DEEPLAB.ALIGN_CORNERS False": (*OUTPUTS, *RESIZED),
    "MODEL.SEM_SEG_HEAD.NORM_EPS 1e-5": ("semantic",),
    "MODEL.INS_EMBED_HEAD.NORM_EPS 1e-5": ("center", "offset"),
    "MODEL.MAX_DEEPLAB_S.NORM_EPS 1e-5": ENCODER,
    "MODEL.PIXEL_MEAN [123.675,116.28,103.53]": ENCODER,
    "MODEL.PIXEL_STD [58.395,57.12,57.375]": ENCODER,
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_is_not_deeplab2s_shows(setting: str) -> None:
    model = converted("max_deeplab_s", *setting.split())
    found = errors(run(model, random_image()), expected("max_deeplab_s"))
    for place in SETTINGS[setting]:
        assert found[place] > 2, found


def padded(image: np.ndarray, value: float = 127.5) -> np.ndarray:
    """To 16k + 1 pixels a side, to the right and below."""
    height, width = (-(-(side - 1) // 16) * 16 + 1 - side for side in image.shape[:2])
    margins = ((0, height), (0, width), (0, 0))
    return np.pad(image.astype(float), margins, constant_values=value)


@pytest.mark.parametrize("size", [(50, 41), (64, 96), (34, 65), (17, 130), (2, 49)])
@pytest.mark.parametrize("name", PANOPTIC)
def test_off_the_grid_an_image_is_padded_with_the_mean(name: str, size: tuple[int, int]) -> None:
    image = random_image(size)
    results = run(exact_model(name), image)
    for value, fits in ((127.5, True), (0.0, False)):
        others = expect(name, padded(image, value))
        for place in RESIZED:
            others[place] = others[place][: size[0], : size[1]]
        found = errors(results, others)
        assert found.keys() >= {"res5", *OUTPUTS, *RESIZED}
        assert (max(found.values()) < 0.01) == fits, found


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (3, 90), (40, 40)])
def test_any_size_runs(name: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        (result,) = shared_model(name)([{"image": torch.zeros(3, *size), "height": 20}])
    assert result["sem_seg"].shape == (19, 20, size[1])
    assert result["sem_seg"].isfinite().all()


@pytest.mark.parametrize("name", PANOPTIC)
def test_longer_than_the_tables(name: str) -> None:
    """Tables of 3 offsets to either side, axes of up to 49: those beyond share the last rows."""
    model = exact(converted(name, f"MODEL.{LAYOUTS[name].node}.MAX_SPAN", 4))
    cut = {
        variable: array[251:258] if "_rpe/" in variable else array
        for variable, array in checkpoint(name).items()
    }
    results = run(model, random_image())
    found = errors(results, NumpyDeepLab2(cut)(random_image()))
    assert found.keys() >= {"res5", *OUTPUTS}
    assert max(found.values()) < 0.01, found
    assert errors(results, expected(name))["res5"] > 2, "as if the tables were whole"


def test_the_grid_pads_nothing() -> None:
    image = torch.zeros(3, *ON_GRID)
    assert shared_model("max_deeplab_s")._images([{"image": image}]).shape[2:] == ON_GRID
