"""Writes checkpoints with TensorFlow itself, as DeepLab2's training does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from deeplab2_checkpoints import SUFFIX


def write_checkpoint(tensorflow: Any, arrays: dict[str, np.ndarray], path: Path) -> Path:
    """An object graph whose paths are the names, with the slots of an Adam that made a step.

    The step leaves every value as it is.

    Returns:
        The prefix of the files.
    """
    root = tensorflow.train.Checkpoint()
    variables = []
    for name, array in arrays.items():
        if name == f"save_counter{SUFFIX}":
            continue  # a checkpoint has its own
        *parents, last = name.removesuffix(SUFFIX).split("/")
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                setattr(node, parent, tensorflow.Module())
            node = getattr(node, parent)
        variable = tensorflow.Variable(array, trainable="moving_" not in last and array.ndim > 0)
        setattr(node, last, variable)
        variables.append(variable)
    root.optimizer = tensorflow.compat.v1.train.AdamOptimizer(0.0)
    trained = [variable for variable in variables if variable.trainable]
    root.optimizer.apply_gradients([(tensorflow.ones_like(v), v) for v in trained])
    if f"save_counter{SUFFIX}" in arrays:
        root.save_counter.assign(arrays[f"save_counter{SUFFIX}"])
    return Path(root.write(str(path)))
