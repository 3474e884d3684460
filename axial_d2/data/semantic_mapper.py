"""From a dataset dict to an image and its classes, cropped after it was resized."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T


class SemanticMapper(DatasetMapper):
    """Detectron2's ``DatasetMapper`` for semantic segmentation.

    The image is resized to one of ``INPUT.MIN_SIZE_TRAIN`` first and cropped and mirrored then, so
    that crops have the size of ``INPUT.CROP`` at every scale (Detectron2 crops first, for boxes),
    and, as in Detectron2's DeepLab, crops that one class fills by more than
    ``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA`` are drawn anew. Instances are left out.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        arguments = super().from_config(cfg, is_train)
        if is_train:
            arguments["augmentations"] = _augmentations(cfg)
        return arguments

    def __call__(self, dataset_dict: dict) -> dict:
        wanted = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        return super().__call__(wanted)


def _augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    node = cfg.INPUT
    augmentations: list[T.Augmentation] = [
        T.ResizeShortestEdge(node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING)
    ]
    if node.CROP.ENABLED:
        augmentations.append(
            T.RandomCrop_CategoryAreaConstraint(
                node.CROP.TYPE,
                node.CROP.SIZE,
                node.CROP.SINGLE_CATEGORY_MAX_AREA,
                cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            )
        )
    if node.RANDOM_FLIP != "none":
        horizontal = node.RANDOM_FLIP == "horizontal"
        augmentations.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    return augmentations
