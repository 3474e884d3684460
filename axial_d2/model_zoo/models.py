"""The models of the zoo, in the manner of ``detectron2.model_zoo``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from axial_d2.analysis import ModelCost, analyze
from axial_d2.engine.checkpoint import StrictCheckpointer
from axial_d2.engine.setup import read_config, register_datasets
from axial_d2.model_zoo.config_files import config_names, get_config_file
from axial_d2.model_zoo.local_weights import weights_file
from axial_d2.model_zoo.published import (
    BACKBONES,
    RESULTS,
    SECTIONS,
    TRAINED,
    DatasetSection,
    PublicWeights,
    PublishedResults,
)
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ZooModel:
    """A config, and what is known of its model.

    Attributes:
        name: such as "cityscapes/axial_deeplab_l", for :func:`get` and :func:`get_config`.
        section: its data set, with the input size that costs are given for.
        results: what others trained and published, None where nobody did.
        trained: published weights of the whole model, None where there are none.
        backbone: published weights of its backbone, from ImageNet.
    """

    name: str
    section: DatasetSection
    results: PublishedResults | None
    trained: PublicWeights | None
    backbone: PublicWeights | None

    def cost(self) -> ModelCost:
        """Parameters, multiply-adds and activations at the section's size; takes seconds."""
        cfg = read_config(get_config_file(self.name), ["MODEL.DEVICE", "cpu"])
        return analyze(cfg, self.section.input_size)


def list_models() -> list[ZooModel]:
    """Every config, one data set after the other."""
    return [
        ZooModel(name, section, RESULTS.get(name), TRAINED.get(name), BACKBONES.get(name))
        for section in SECTIONS
        for name in config_names(section)
    ]


def get_config(name: str, pretrained: bool | str | Path = False) -> CfgNode:
    """The config of a model, not frozen; its data sets are registered where they are there.

    Args:
        name: such as "cityscapes/axial_deeplab_l", with or without ".yaml".
        pretrained: False (default) leaves ``MODEL.WEIGHTS`` as the config has it; True sets it to
            the trained weights on this machine (:func:`.weights_file`), a path to that file.

    Raises:
        ValueError: there is no such config, or with ``pretrained=True`` no published weights.
        FileNotFoundError: with ``pretrained=True``, they are not on this machine; the message has
            the steps to get them.
    """
    cfg = read_config(get_config_file(name))
    try:
        register_datasets(cfg)
    except FileNotFoundError as error:
        logger.warning("the data sets of %s are not registered: %s", name, error)
    if pretrained:
        cfg.MODEL.WEIGHTS = weights_file(name) if pretrained is True else str(pretrained)
    return cfg


def get(name: str, pretrained: bool | str | Path = False, device: str | None = None) -> nn.Module:
    """A model of the zoo, in training mode as Detectron2's ``build_model`` returns it.

    Args:
        name, pretrained: see :func:`get_config`. Without ``pretrained`` the weights are random,
            whatever the config says.
        device: default ``MODEL.DEVICE`` of the config, or the CPU where there is no GPU.

    Raises:
        ValueError, FileNotFoundError: as :func:`get_config` does, and
            :class:`.StrictCheckpointer` where weights do not fit; also where the classes are
            known from the data set's files alone, and these are not there.
    """
    cfg = get_config(name, pretrained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    register_datasets(cfg)  # a model knows which classes are things
    model = build_model(cfg)
    if pretrained:
        StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model
