"""Meta-architectures; importing this registers them with Detectron2."""

from axial_d2.meta_arch.axial_deeplab import AxialDeepLab
from axial_d2.meta_arch.classifier import ImageClassifier
from axial_d2.meta_arch.retinanet import AttentionRetinaNet
from axial_d2.meta_arch.scale_attention import ScaleAttentionSegmentor
from axial_d2.meta_arch.semantic_augmentation import SemanticSegmentorWithTTA
from axial_d2.meta_arch.sliding_window import SlidingWindowSegmentor
from axial_d2.meta_arch.test_time_augmentation import AxialDeepLabWithTTA

__all__ = [
    "AttentionRetinaNet",
    "AxialDeepLab",
    "AxialDeepLabWithTTA",
    "ImageClassifier",
    "ScaleAttentionSegmentor",
    "SemanticSegmentorWithTTA",
    "SlidingWindowSegmentor",
]
