"""Small checkpoints in DeepLab2's format: names and shapes from the design facts, random values.

Nothing here knows axial_d2. Names are those without prefix and suffix until the very end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
NUM_HEADS = 8
TABLE_ROWS = 509
NUM_CLASSES = 19
Arrays = dict[str, np.ndarray]


@dataclass
class Writer:
    """Random variables under a growing set of names."""

    seed: int
    arrays: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def normal(self, name: str, shape: tuple[int, ...], std: float) -> None:
        assert name not in self.arrays
        self.arrays[name] = self.random.normal(0, std, shape).astype(np.float32)

    def uniform(self, name: str, shape: tuple[int, ...], low: float, high: float) -> None:
        assert name not in self.arrays
        self.arrays[name] = self.random.uniform(low, high, shape).astype(np.float32)

    def norm(self, name: str, shape: tuple[int, ...], gain: float = 1.0) -> None:
        """Statistics that are neither 0 nor 1."""
        self.uniform(f"{name}/gamma", shape, 0.5 * gain, 1.5 * gain)
        self.normal(f"{name}/beta", shape, 0.3)
        self.normal(f"{name}/moving_mean", shape, 0.3)
        self.uniform(f"{name}/moving_variance", shape, 0.5, 1.5)

    def conv(self, name: str, size: int, inputs: int, outputs: int, gain: float = 1.0) -> None:
        """A convolution with its norm; its outputs are so small that an epsilon counts."""
        std = 0.2 * (size * size * inputs) ** -0.5
        self.normal(f"{name}/_conv/kernel", (size, size, inputs, outputs), std)
        self.norm(f"{name}/_batch_norm", (outputs,), gain)

    def separable(self, name: str, inputs: int, outputs: int) -> None:
        depthwise, pointwise = (
            f"{name}/_conv1_bn_act/_{kind}" for kind in ("depthwise", "pointwise")
        )
        self.normal(f"{depthwise}/_depthwise_conv/depthwise_kernel", (5, 5, inputs, 1), 0.04)
        self.norm(f"{depthwise}/_batch_norm", (inputs,))
        self.conv(pointwise, 1, inputs, outputs)

    def axis(self, name: str, inputs: int, keys: int, values: int) -> None:
        self.normal(f"{name}/qkv_kernel", (inputs, 2 * keys + values), 0.2 * inputs**-0.5)
        self.norm(f"{name}/_batch_norm_qkv", (2 * keys + values,))
        self.norm(f"{name}/_batch_norm_similarity", (3, 1, NUM_HEADS, 1, 1), gain=0.7)
        shape = (2, 1, NUM_HEADS, 1, values // NUM_HEADS)
        self.norm(f"{name}/_batch_norm_retrieved_output", shape)
        for kind, channels in (("query", keys), ("key", keys), ("value", values)):
            table = (TABLE_ROWS, channels // NUM_HEADS)
            self.normal(f"{name}/_{kind}_rpe/embeddings", table, table[1] ** -0.5)

    def block(self, name: str, kind: str, inputs: int, inside: int, outputs: int) -> None:
        """``inside``: channels between the 1×1 convolutions; of values in an axial block."""
        if kind == "basic":
            self.conv(f"{name}/_conv1_bn_act", 3, inputs, outputs)
            self.conv(f"{name}/_conv2_bn", 3, outputs, outputs, gain=0.15)
        else:
            self.conv(f"{name}/_conv1_bn_act", 1, inputs, inside)
            if kind == "bottleneck":
                self.conv(f"{name}/_conv2_bn_act", 3, inside, inside)
            else:
                for axis in ("height", "width"):
                    self.axis(f"{name}/_attention/_{axis}_axis", inside, inside // 2, inside)
            self.conv(f"{name}/_conv3_bn", 1, inside, outputs, gain=0.15)
        if inputs != outputs:
            self.conv(f"{name}/_shortcut", 1, inputs, outputs)

    def decoder(self, name: str, channels: int, aspp: int, low: tuple[int, int], features) -> None:
        """``low``: channels of the projections of res3 and res2; ``features``: of all."""
        self.conv(f"{name}/_aspp/_proj_conv_bn_act", 1, features["res5"], aspp)
        inputs = aspp
        for number, (feature, projected) in enumerate(zip(("res3", "res2"), low, strict=True), 1):
            self.conv(f"{name}/_low_level_conv{number}", 1, features[feature], projected)
            self.separable(f"{name}/_fusion_conv{number}", inputs + projected, channels)
            inputs = channels

    def head(self, name: str, last: str, inputs: int, inside: int, outputs: int) -> None:
        self.separable(name, inputs, inside)
        self.normal(f"{last}/kernel", (1, 1, inside, outputs), inside**-0.5)
        self.normal(f"{last}/bias", (outputs,), 0.5)

    def heads(self, features: dict[str, int]) -> None:
        """Both decoders and all heads."""
        self.decoder("semantic_decoder", 256, 256, (64, 32), features)
        self.decoder("instance_decoder", 128, 256, (32, 16), features)
        last = "_head_last_layer"
        without = "_head_without_last_layer"
        self.head(f"semantic{without}", "semantic_last_layer", 256, 256, NUM_CLASSES)
        self.head(f"instance_center{without}", f"instance_center{last}", 128, 32, 1)
        self.head(f"instance_regression{without}", f"instance_regression{last}", 128, 32, 2)


def encoder(layout: str, width: float, stem_width: float, multiplier: float, seed: int) -> Arrays:
    """Variables of a backbone, without prefix and suffix.

    Args:
        layout: "axial_deeplab", "axial_resnet", "max_deeplab_s" or "axial_swidernet".
        width, stem_width: multipliers.
        multiplier: of the number of blocks in axial_swidernet.
    """
    writer = Writer(seed)
    stem = round(64 * stem_width)
    if layout == "axial_swidernet":
        writer.conv("_stem", 3, 3, stem)
        inputs = stem
        for index in range(3):
            writer.block(f"_stage1/_block{index + 1}", "basic", inputs, 0, 2 * stem)
            inputs = 2 * stem
        counts = [int(count * multiplier) for count in (3, 6, 3, 3)]
    else:
        counts = [3, 4, 6, 3]
        if layout == "axial_resnet":
            writer.conv("_stem", 7, 3, stem)
            inputs = stem
        else:
            writer.conv("_stem/_conv1_bn_act", 3, 3, stem)
            writer.conv("_stem/_conv2_bn_act", 3, stem, stem)
            writer.conv("_stem/_conv3_bn", 3, stem, 2 * stem)
            inputs = 2 * stem
    for stage, count in zip((2, 3, 4, 5), counts, strict=True):
        filters = round(64 * 2 ** (stage - 2) * width)
        for index in range(count):
            kind = block_kind(layout, stage, index)
            inside = {"basic": 0, "bottleneck": filters, "axial": 2 * filters}[kind]
            if layout == "axial_swidernet":
                inside *= 2
            writer.block(f"_stage{stage}/_block{index + 1}", kind, inputs, inside, 4 * filters)
            inputs = 4 * filters
    return writer.arrays


def block_kind(layout: str, stage: int, index: int) -> str:
    if layout in ("axial_deeplab", "axial_resnet") or stage == 5 or (stage == 4 and index > 0):
        return "axial"
    return "basic" if layout == "axial_swidernet" else "bottleneck"


def panoptic_checkpoint(
    layout: str, width: float, stem_width: float, multiplier: float = 1.0, seed: int = 0
) -> Arrays:
    """A whole model's checkpoint, with counters."""
    writer = Writer(seed + 1)
    writer.heads({f"res{stage}": round(2 ** (stage + 6) * width) for stage in (2, 3, 5)})
    backbone = encoder(layout, width, stem_width, multiplier, seed)
    arrays = {f"encoder/{name}": array for name, array in backbone.items()}
    arrays = {f"{name}{SUFFIX}": array for name, array in {**arrays, **writer.arrays}.items()}
    return {**arrays, **counters("global_step", "save_counter", "optimizer/iter")}


def imagenet_checkpoint(layout: str, width: float, stem_width: float, seed: int = 0) -> Arrays:
    """A backbone's checkpoint, as the classifier's training writes it."""
    backbone = encoder(layout, width, stem_width, 1.0, seed)
    arrays = {f"backbone/_encoder/{name}{SUFFIX}": array for name, array in backbone.items()}
    return {**arrays, **counters("save_counter")}


def counters(*names: str) -> Arrays:
    return {f"{name}{SUFFIX}": np.array(60000, dtype=np.int64) for name in names}


def with_adam_slots(arrays: Arrays) -> Arrays:
    """The same with what Adam stores beside every variable that is trained."""
    slots: Arrays = {}
    for name, array in arrays.items():
        if array.ndim and "/moving_" not in name:
            variable = name.removesuffix(SUFFIX)
            for slot in ("m", "v", "vhat"):
                slots[f"{variable}/.OPTIMIZER_SLOT/optimizer/{slot}{SUFFIX}"] = array + 1
    hyper = {
        f"optimizer/{n}{SUFFIX}": np.array(0.9, np.float32) for n in ("beta_1", "beta_2", "decay")
    }
    return {**arrays, **slots, **hyper}


def with_stacked_decoder(arrays: Arrays) -> Arrays:
    """The same with some of what MaX-DeepLab-L's backbone has beyond res5."""
    writer = Writer(7)
    writer.block("encoder/_decoder_stage1/_block1", "basic", 16, 0, 16)
    for number in (1, 2):
        writer.conv(f"encoder/_decoder_stage{number}_resized_fuse/_resized_conv", 1, 16, 16)
    return {**arrays, **{f"{name}{SUFFIX}": array for name, array in writer.arrays.items()}}
