"""The authors' Axial-ResNet in NumPy, line by line, from ../shared/design.md alone.

Knows the checkpoint's names and nothing of axial_d2. Inference on one image, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]
Prepare = Callable[[Array, Weights, str], None]

EPS = 1e-5


def calibrated(weights: Weights, image: Array) -> Weights:
    """The weights, with statistics of the norms outside of attention that belong to the image.

    Otherwise activations of a random network grow until every softmax is a step. What the weights
    have is taken as a displacement in standard deviations, and a factor of the variance.
    """
    weights = {name: weight.copy() for name, weight in weights.items()}
    forward(weights, image, adapt)
    return weights


def adapt(x: Array, weights: Weights, name: str) -> None:
    """Changes the statistics of a norm, in place, before it sees its input."""
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    mean *= x.std()
    mean += x.mean(axis=(1, 2))
    variance *= (x.var(axis=(1, 2)) + x.var()) / 2  # some channels hardly vary on a small map


def keep(x: Array, weights: Weights, name: str) -> None:
    """Leaves the statistics of a norm as they are."""


def forward(weights: Weights, image: Array, prepare: Prepare = keep) -> dict[str, Array]:
    """[3, S, S] → {"res2": [C, S / 4, S / 4], … "res5": [C, S / 32, S / 32]}."""
    x = convolve(image, weights["conv1.weight"], stride=2, padding=3)
    x = max_pool(relu(normalise(x, weights, "bn1", prepare)))
    features = {}
    for layer in (1, 2, 3, 4):
        index = 0
        while f"layer{layer}.{index}.conv_down.weight" in weights:
            stride = 2 if layer > 1 and index == 0 else 1
            x = block(x, inside(weights, f"layer{layer}.{index}."), stride, prepare)
            index += 1
        features[f"res{layer + 1}"] = x
    return features


def inside(weights: Weights, prefix: str) -> Weights:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def block(x: Array, weights: Weights, stride: int, prepare: Prepare) -> Array:
    out = relu(normalise(convolve(x, weights["conv_down.weight"]), weights, "bn1", prepare))
    out = on_columns(out, inside(weights, "hight_block."))
    out = on_rows(out, inside(weights, "width_block."))
    if stride == 2:
        out = (out[:, ::2] + out[:, 1::2]) / 2
        out = (out[:, :, ::2] + out[:, :, 1::2]) / 2
    out = normalise(convolve(relu(out), weights["conv_up.weight"]), weights, "bn2", prepare)
    if "downsample.0.weight" in weights:
        x = convolve(x, weights["downsample.0.weight"], stride=stride)
        x = normalise(x, weights, "downsample.1", prepare)
    return relu(out + x)


def on_columns(x: Array, weights: Weights) -> Array:
    """Attention along the height, one column after the other."""
    columns = [attend(x[:, :, column], weights) for column in range(x.shape[2])]
    return np.stack(columns, axis=2)


def on_rows(x: Array, weights: Weights) -> Array:
    return np.stack([attend(x[:, row], weights) for row in range(x.shape[1])], axis=1)


def attend(line: Array, weights: Weights) -> Array:
    """[C, L] → [C, L]: position-sensitive attention with its three batch norms."""
    channels, length = line.shape
    num_heads = weights["bn_similarity.weight"].shape[0] // 3
    per_head = channels // num_heads
    half = per_head // 2
    relative = weights["relative"]
    assert relative.shape == (2 * per_head, 2 * length - 1)
    positions_of_query = relative[:half]
    positions_of_key = relative[half : 2 * half]
    positions_of_value = relative[2 * half :]

    qkv = normalise(weights["qkv_transform.weight"][:, :, 0] @ line, weights, "bn_qkv")
    places = np.arange(length)
    # [query, key], as columns of the tables.
    query_minus_key = places[:, None] - places[None, :] + length - 1
    key_minus_query = places[None, :] - places[:, None] + length - 1
    out = np.empty_like(line)
    for head in range(num_heads):
        packed = qkv[2 * per_head * head : 2 * per_head * (head + 1)]
        query, key, value = packed[:half], packed[half:per_head], packed[per_head:]
        terms = (
            query.T @ key,
            np.einsum("cq,cqk->qk", query, positions_of_query[:, query_minus_key]),
            np.einsum("ck,cqk->qk", key, positions_of_key[:, key_minus_query]),
        )
        logits = sum(
            normalise_one(term, weights, "bn_similarity", order * num_heads + head)
            for order, term in enumerate(terms)
        )
        attention = np.exp(logits - logits.max(axis=1, keepdims=True))
        attention /= attention.sum(axis=1, keepdims=True)
        content = np.einsum("qk,ck->cq", attention, value)
        position = np.einsum("qk,cqk->cq", attention, positions_of_value[:, query_minus_key])
        for c in range(per_head):
            channel = head * per_head + c
            out[channel] = normalise_one(
                content[c], weights, "bn_output", 2 * channel
            ) + normalise_one(position[c], weights, "bn_output", 2 * channel + 1)
    return out


def normalise_one(value: Array, weights: Weights, name: str, channel: int) -> Array:
    mean, variance = (weights[f"{name}.running_{of}"][channel] for of in ("mean", "var"))
    scale, shift = (weights[f"{name}.{of}"][channel] for of in ("weight", "bias"))
    return (value - mean) / np.sqrt(variance + EPS) * scale + shift


def normalise(x: Array, weights: Weights, name: str, prepare: Prepare = keep) -> Array:
    prepare(x, weights, name)
    return np.stack([normalise_one(each, weights, name, c) for c, each in enumerate(x)])


def convolve(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    """[C, H, W] and [out, C, k, k] → [out, H / stride, W / stride]."""
    size = weight.shape[2]
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    rows = (padded.shape[1] - size) // stride + 1
    columns = (padded.shape[2] - size) // stride + 1
    out = np.zeros((weight.shape[0], rows, columns))
    for a in range(size):
        for b in range(size):
            shifted = padded[:, a : a + stride * rows : stride, b : b + stride * columns : stride]
            out += np.einsum("oc,chw->ohw", weight[:, :, a, b], shifted)
    return out


def max_pool(x: Array) -> Array:
    """3×3 with stride 2, one position of padding."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    shifted = [
        padded[:, a : a + 2 * rows : 2, b : b + 2 * columns : 2] for a in range(3) for b in range(3)
    ]
    return np.max(shifted, axis=0)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)
