"""From a dataset dict to what a model takes; a bad file is named."""

from __future__ import annotations

import copy

import numpy as np
import torch
from axial_d2.data.reading import DatasetError, read_image, read_panoptic_png
from axial_d2.data.targets import PanopticTargetGenerator
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper
from panopticapi.utils import id2rgb, rgb2id


class PanopticMapper(PanopticDeeplabDatasetMapper):
    """Detectron2's Panoptic-DeepLab mapper; crowd-safe targets and errors that name the file.

    Resizes, crops and flips as ``cfg.INPUT`` says and adds the targets that
    :class:`axial_d2.meta_arch.AxialDeepLab` documents.

    Raises (when called):
        DatasetError: a file that is missing, cannot be decoded, or whose size disagrees.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        arguments = super().from_config(cfg)
        base = arguments["panoptic_target_generator"]
        arguments["panoptic_target_generator"] = PanopticTargetGenerator(
            ignore_label=base.ignore_label,
            thing_ids=base.thing_ids,
            sigma=base.sigma,
            ignore_stuff_in_offset=base.ignore_stuff_in_offset,
            small_instance_area=base.small_instance_area,
            small_instance_weight=base.small_instance_weight,
            ignore_crowd_in_semantic=base.ignore_crowd_in_semantic,
        )
        arguments["augmentations"] = [
            augmentation
            for augmentation in arguments["augmentations"]
            if not isinstance(augmentation, T.RandomFlip)
        ] + _flips(cfg.INPUT.RANDOM_FLIP)
        return arguments

    def __call__(self, dataset_dict: dict) -> dict:
        dataset_dict = copy.deepcopy(dataset_dict)
        image = read_image(dataset_dict["file_name"], self.image_format)
        utils.check_image_size(dataset_dict, image)
        panoptic_file = dataset_dict.pop("pan_seg_file_name")
        panoptic = read_panoptic_png(panoptic_file)
        if panoptic.shape != image.shape[:2]:
            raise DatasetError(
                f"Panoptic PNG {panoptic_file} is {panoptic.shape[0]}x{panoptic.shape[1]} pixels "
                f"(height x width), its image {dataset_dict['file_name']} {image.shape[0]}x"
                f"{image.shape[1]}; they must agree. tools/check_dataset.py lists all such files."
            )
        # As colours, because Detectron2 resizes label maps of 8 bits only.
        labels = T.AugInput(image, sem_seg=id2rgb(panoptic).astype(np.uint8))
        self.augmentations(labels)
        dataset_dict["image"] = torch.as_tensor(
            np.ascontiguousarray(labels.image.transpose(2, 0, 1))
        )
        dataset_dict.update(
            self.panoptic_target_generator(rgb2id(labels.sem_seg), dataset_dict["segments_info"])
        )
        return dataset_dict


def _flips(direction: str) -> list[T.Augmentation]:
    choices = {
        "horizontal": [T.RandomFlip(horizontal=True, vertical=False)],
        "vertical": [T.RandomFlip(horizontal=False, vertical=True)],
        "none": [],
    }
    if direction not in choices:
        raise ValueError(f"INPUT.RANDOM_FLIP is {direction!r}; it must be one of {tuple(choices)}.")
    return choices[direction]


class NamingMapper:
    """Wraps any mapper so that whatever goes wrong names the image it went wrong with."""

    def __init__(self, mapper):
        self.mapper = mapper

    def __call__(self, dataset_dict: dict) -> dict | None:
        try:
            return self.mapper(dataset_dict)
        except DatasetError:
            raise
        except Exception as error:
            raise DatasetError(
                f"{dataset_dict.get('file_name', 'an image without file_name')} cannot be used: "
                f"{type(error).__name__}: {error}. tools/check_dataset.py checks a whole data set."
            ) from error
