"""Converted weights on this machine; nothing is ever fetched without being asked for."""

from __future__ import annotations

import os
from pathlib import Path

from axial_d2.model_zoo.config_files import get_config_file, normalised
from axial_d2.model_zoo.published import TRAINED, PublicWeights

FOLDER_VARIABLE = "AXIAL_D2_WEIGHTS"
SUFFIXES = (".pth", ".safetensors")


def weights_folder() -> Path:
    """What the environment variable AXIAL_D2_WEIGHTS names, or else ``weights``."""
    return Path(os.environ.get(FOLDER_VARIABLE, "weights"))


def weights_file(name: str) -> str:
    """The converted weights of a config's whole model.

    Args:
        name: of the config; its weights are ``<name>.pth`` or ``<name>.safetensors`` in
            :func:`weights_folder`.

    Raises:
        ValueError: there is no such config, or nobody publishes weights for it.
        FileNotFoundError: they are not there; the message has the steps to get them.
    """
    get_config_file(name)
    stem = normalised(name)
    files = [weights_folder() / f"{stem}{suffix}" for suffix in SUFFIXES]
    for file in files:
        if file.is_file():
            return str(file)
    if stem not in TRAINED:
        raise ValueError(
            f"nobody publishes trained weights for {stem}, and {files[0]} does not exist; there "
            f"are those of {', '.join(TRAINED)}. docs/weights.md says where backbones come from."
        )
    raise FileNotFoundError(
        f"the weights of {stem} are not on this machine ({files[0]}). To get them once:\n"
        + "\n".join(f"  {step}" for step in steps(stem, TRAINED[stem]))
    )


def steps(name: str, weights: PublicWeights) -> list[str]:
    """Commands that fetch and convert weights for a config, in order."""
    output = weights_folder() / f"{name}.pth"
    commands = [f"curl -LO {weights.address}"]
    source = weights.file
    if weights.is_archive:
        commands.append(f"tar xf {source}")
        source = source.removesuffix(".tar.gz")
    if weights.is_tensorflow:
        commands.append("tools/setup_tensorflow.py  # .venv-tensorflow, for the next step alone")
    python = ".venv-tensorflow/bin/python " if weights.is_tensorflow else ""
    convert = f"{python}tools/convert_weights.py {source} {output}"
    return [*commands, f"{convert} --config-file {get_config_file(name)}"]
