"""DeepLab2's forward pass in NumPy and float64, straight from a checkpoint's variables.

Written from the design facts, and knows nothing of axial_d2. Images are [height, width, channels].
Every convention that a converter may get wrong is a field of :class:`Conventions`, so that tests
can flip it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@dataclass(frozen=True)
class Conventions:
    """DeepLab2's by default.

    * epsilon: of all batch norms; head_epsilon of those in decoders and heads, None for epsilon.
    * key_minus_query: of the offsets that index position tables.
    * heads_outermost: whether channels are heads × channels a head, or the other way round.
    * align_corners: of resizes in the decoders; align_output_corners of the outputs.
    * high_level_first: order of a fusion's input.
    * relu_after_depthwise: as after the pointwise convolution.
    * activated_stem: whether ReLU stands between the stem and the first block.
    * pixel_offset: what a pixel of 0 becomes, -1.
    """

    epsilon: float = 1e-3
    head_epsilon: float | None = None
    key_minus_query: bool = True
    heads_outermost: bool = True
    align_corners: bool = True
    align_output_corners: bool = True
    high_level_first: bool = True
    relu_after_depthwise: bool = True
    activated_stem: bool = True
    pixel_offset: float = -1.0


class NumpyDeepLab2:
    """A model of the variables that a checkpoint holds.

    Args:
        checkpoint: variables by full name.
        output_stride: 16 or 32; stage 5 strides at 32 alone.
        conventions: DeepLab2's unless a test flips one.
    """

    def __init__(
        self,
        checkpoint: dict[str, np.ndarray],
        output_stride: int = 16,
        conventions: Conventions | None = None,
    ):
        prefixes = ("backbone/_encoder/", "encoder/")
        self.encoder = next(p for p in prefixes if any(n.startswith(p) for n in checkpoint))
        self.variables = {
            name.removesuffix(SUFFIX): array.astype(np.float64)
            for name, array in checkpoint.items()
            if "OPTIMIZER" not in name
        }
        self.output_stride = output_stride
        self.conventions = conventions or Conventions()
        self.epsilon = self.conventions.epsilon

    def __call__(self, image: np.ndarray) -> dict[str, Array]:
        """[height, width, 3], 0 … 255, RGB → features, and where there are heads, the outputs.

        "semantic", "center" and "offset" are at stride 4; "semantic_resized" and so on at the
        image's size, with offsets (y, x) in its pixels.
        """
        features = self.features(image)
        if not self.has("semantic_last_layer"):
            return features
        if self.conventions.head_epsilon is not None:
            self.epsilon = self.conventions.head_epsilon
        outputs = self.outputs(features)
        self.epsilon = self.conventions.epsilon
        size = image.shape[:2]
        aligned = self.conventions.align_output_corners
        resized = {f"{k}_resized": resize(v, size, aligned) for k, v in outputs.items()}
        cells = outputs["offset"].shape[:2]
        scale = [(side - 1) / (cell - 1) for side, cell in zip(size, cells, strict=True)]
        resized["offset_resized"] = resized["offset_resized"] * scale
        return {**features, **outputs, **resized}

    # Backbone

    def features(self, image: np.ndarray) -> dict[str, Array]:
        x = image.astype(np.float64) / 127.5 + self.conventions.pixel_offset
        x = self.stem(x)
        if self.conventions.activated_stem:
            x = relu(x)
        features = {}
        for stage in (1, 2, 3, 4, 5):
            prefix = f"{self.encoder}_stage{stage}/"
            for index in range(self.count(rf"{prefix}_block(\d+)/")):
                strides = index == 0 and stage > 1 and (stage < 5 or self.output_stride == 32)
                x = relu(self.block(f"{prefix}_block{index + 1}", x, 2 if strides else 1))
            features[f"res{stage}"] = x
        return features

    def stem(self, x: Array) -> Array:
        """Not activated."""
        name = f"{self.encoder}_stem"
        if self.has(f"{name}/_conv3_bn"):
            x = relu(self.conv(f"{name}/_conv1_bn_act", x, 2))
            x = relu(self.conv(f"{name}/_conv2_bn_act", x))
            return self.conv(f"{name}/_conv3_bn", x)
        return self.conv(name, x, 2)

    def block(self, name: str, x: Array, stride: int) -> Array:
        """From activated features to ones that are not."""
        if self.has(f"{name}/_attention"):
            y = relu(self.conv(f"{name}/_conv1_bn_act", x))
            y = self.axis(f"{name}/_attention/_height_axis", y.transpose(1, 0, 2))
            y = y.transpose(1, 0, 2)[::stride]
            y = self.axis(f"{name}/_attention/_width_axis", y)[:, ::stride]
            y = self.conv(f"{name}/_conv3_bn", relu(y))
        elif self.has(f"{name}/_conv2_bn_act"):
            y = relu(self.conv(f"{name}/_conv1_bn_act", x))
            y = relu(self.conv(f"{name}/_conv2_bn_act", y, stride))
            y = self.conv(f"{name}/_conv3_bn", y)
        else:
            y = relu(self.conv(f"{name}/_conv1_bn_act", x, stride))
            y = self.conv(f"{name}/_conv2_bn", y)
        if self.has(f"{name}/_shortcut"):
            return y + self.conv(f"{name}/_shortcut", x, stride)
        return y + x[::stride, ::stride]

    def axis(self, name: str, lines: Array) -> Array:
        """Attention within each line, [lines, length, channels]."""
        v = self.variables
        heads = v[f"{name}/_batch_norm_similarity/gamma"].shape[2]
        depth = v[f"{name}/_query_rpe/embeddings"].shape[1] * heads
        qkv = self.norm(f"{name}/_batch_norm_qkv", lines @ v[f"{name}/qkv_kernel"])
        query, key, value = (
            self.split_heads(part, heads) for part in np.split(qkv, [depth, 2 * depth], axis=2)
        )
        tables = {
            kind: self.positions(f"{name}/_{kind}_rpe", lines.shape[1])
            for kind in ("query", "key", "value")
        }
        # Letters: line, head, query position l, key position m, channel.
        logits = np.stack(
            [
                np.einsum("bhlc,bhmc->bhlm", query, key),
                np.einsum("bhlc,lmc->bhlm", query, tables["query"]),
                np.einsum("bhmc,lmc->bhlm", key, tables["key"]),
            ]
        )
        logits = self.norm(f"{name}/_batch_norm_similarity", logits).sum(axis=0)
        weights = np.exp(logits - logits.max(axis=3, keepdims=True))
        weights /= weights.sum(axis=3, keepdims=True)
        retrieved = np.stack(
            [
                np.einsum("bhlm,bhmc->bhlc", weights, value),
                np.einsum("bhlm,lmc->bhlc", weights, tables["value"]),
            ]
        )
        retrieved = self.norm(f"{name}/_batch_norm_retrieved_output", retrieved).sum(axis=0)
        return self.join_heads(retrieved)

    def split_heads(self, x: Array, heads: int) -> Array:
        lines, length, channels = x.shape
        if self.conventions.heads_outermost:
            return x.reshape(lines, length, heads, channels // heads).transpose(0, 2, 1, 3)
        return x.reshape(lines, length, channels // heads, heads).transpose(0, 3, 1, 2)

    def join_heads(self, x: Array) -> Array:
        lines, heads, length, channels = x.shape
        return x.transpose(0, 2, 1, 3).reshape(lines, length, heads * channels)

    def positions(self, name: str, length: int) -> Array:
        """[query, key, channels]; row (rows - 1) / 2 is offset 0, the last ones are shared."""
        table = self.variables[f"{name}/embeddings"]
        zero = (len(table) - 1) // 2
        places = np.arange(length)
        offsets = places[None, :] - places[:, None]
        if not self.conventions.key_minus_query:
            offsets = -offsets
        return table[np.clip(offsets + zero, 0, len(table) - 1)]

    # Decoders and heads

    def outputs(self, features: dict[str, Array]) -> dict[str, Array]:
        semantic = self.decode("semantic_decoder", features)
        instance = self.decode("instance_decoder", features)
        return {
            "semantic": self.head("semantic", semantic, "semantic_last_layer"),
            "center": self.head("instance_center", instance),
            "offset": self.head("instance_regression", instance),
        }

    def decode(self, name: str, features: dict[str, Array]) -> Array:
        x = relu(self.conv(f"{name}/_aspp/_proj_conv_bn_act", features["res5"]))
        for number, feature in ((1, "res3"), (2, "res2")):
            low = relu(self.conv(f"{name}/_low_level_conv{number}", features[feature]))
            high = resize(x, low.shape[:2], self.conventions.align_corners)
            parts = (high, low) if self.conventions.high_level_first else (low, high)
            x = self.separable(f"{name}/_fusion_conv{number}", np.concatenate(parts, axis=2))
        return x

    def head(self, name: str, x: Array, last: str = "") -> Array:
        x = self.separable(f"{name}_head_without_last_layer", x)
        last = last or f"{name}_head_last_layer"
        return convolve(x, self.variables[f"{last}/kernel"]) + self.variables[f"{last}/bias"]

    def separable(self, name: str, x: Array) -> Array:
        depthwise = f"{name}/_conv1_bn_act/_depthwise"
        x = convolve_each(x, self.variables[f"{depthwise}/_depthwise_conv/depthwise_kernel"])
        x = self.norm(f"{depthwise}/_batch_norm", x)
        if self.conventions.relu_after_depthwise:
            x = relu(x)
        return relu(self.conv(f"{name}/_conv1_bn_act/_pointwise", x))

    # Layers

    def conv(self, name: str, x: Array, stride: int = 1) -> Array:
        x = convolve(x, self.variables[f"{name}/_conv/kernel"], stride)
        return self.norm(f"{name}/_batch_norm", x)

    def norm(self, name: str, x: Array) -> Array:
        gamma, beta, mean, variance = (
            self.variables[f"{name}/{part}"]
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / np.sqrt(variance + self.epsilon) * gamma + beta

    def has(self, name: str) -> bool:
        return any(variable.startswith(f"{name}/") for variable in self.variables)

    def count(self, pattern: str) -> int:
        return len({m[1] for name in self.variables if (m := re.match(pattern, name))})


class Calibrating(NumpyDeepLab2):
    """Replaces the statistics of every norm by about those of what comes in, as training would.

    Otherwise activations of a random network grow until every softmax is a step, and nothing
    could be compared.
    """

    def norm(self, name: str, x: Array) -> Array:
        shape = self.variables[f"{name}/gamma"].shape
        reduced = tuple(
            axis
            for axis in range(x.ndim)
            if (len(shape) == 1 and axis < x.ndim - 1) or (len(shape) > 1 and shape[axis] == 1)
        )
        mean, variance = (f(x, axis=reduced).reshape(shape) for f in (np.mean, np.var))
        # What is in the checkpoint: a displacement in standard deviations, and a factor.
        mean += self.variables[f"{name}/moving_mean"] * np.sqrt(variance)
        variance *= self.variables[f"{name}/moving_variance"]
        self.variables[f"{name}/moving_mean"] = mean
        self.variables[f"{name}/moving_variance"] = variance
        return super().norm(name, x)


def calibrated(
    checkpoint: dict[str, np.ndarray], image: np.ndarray, output_stride: int = 16
) -> dict[str, np.ndarray]:
    """The checkpoint with statistics that belong to such images."""
    model = Calibrating(checkpoint, output_stride)
    model(image)
    return {
        name: model.variables[name.removesuffix(SUFFIX)].astype(array.dtype)
        for name, array in checkpoint.items()
    }


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Padded with (k - 1) / 2 zeros on all sides; kernel [height, width, in, out]."""
    size = kernel.shape[0]
    padded = pad(x, size // 2)
    height, width = ((side - 1) // stride + 1 for side in x.shape[:2])
    result = np.zeros((height, width, kernel.shape[3]))
    for dy in range(size):
        for dx in range(size):
            window = padded[dy : dy + x.shape[0] : stride, dx : dx + x.shape[1] : stride]
            result += window @ kernel[dy, dx]
    return result


def convolve_each(x: Array, kernel: Array) -> Array:
    """Channel by channel; kernel [height, width, channels, 1]."""
    size = kernel.shape[0]
    padded = pad(x, size // 2)
    result = np.zeros_like(x)
    for dy in range(size):
        for dx in range(size):
            result += padded[dy : dy + x.shape[0], dx : dx + x.shape[1]] * kernel[dy, dx, :, 0]
    return result


def pad(x: Array, margin: int) -> Array:
    return np.pad(x, ((margin, margin), (margin, margin), (0, 0)))


def resize(x: Array, size: tuple[int, ...], align_corners: bool) -> Array:
    """Bilinear, one axis after the other."""
    for axis, target in enumerate(size):
        x = np.moveaxis(resize_first(np.moveaxis(x, axis, 0), target, align_corners), 0, axis)
    return x


def resize_first(x: Array, target: int, align_corners: bool) -> Array:
    length = x.shape[0]
    if align_corners:
        places = np.linspace(0, length - 1, target)
    else:
        places = np.clip((np.arange(target) + 0.5) * length / target - 0.5, 0, length - 1)
    before = np.floor(places).astype(int)
    after = np.minimum(before + 1, length - 1)
    fraction = (places - before).reshape(-1, 1, 1)
    return x[before] * (1 - fraction) + x[after] * fraction
