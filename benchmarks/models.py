"""The networks that are compared, with random weights that leave no branch out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from axial_d2 import add_axial_deeplab_config
from axial_d2.backbone import AxialResNet, LocalAttentionResNet
from axial_d2.backbone.attention_resnet import AttentionResNet
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config
from torch import Tensor, nn

CONFIGS = Path(__file__).parents[1] / "configs"
NUM_CLASSES = 1000


class Classifier(nn.Module):
    """A backbone, mean and linear layer."""

    def __init__(self, backbone: AttentionResNet):
        super().__init__()
        self.backbone = backbone
        channels = self.backbone.output_shape()["res5"].channels
        self.linear = nn.Linear(channels, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.backbone(images)["res5"].mean(dim=(2, 3)))


def axial_classifier(device: str, implementation: str = "auto") -> nn.Module:
    """Axial-ResNet-S with the authors' stem and striding."""
    torch.manual_seed(0)
    backbone = AxialResNet(
        stem="conv7",
        stem_width_multiplier=1.0,
        striding="avg_pool",
        attention_impl=implementation,
    )
    return with_random_norms(Classifier(backbone)).to(device)


def local_classifier(device: str, implementation: str = "auto") -> nn.Module:
    """SASA's ResNet-50, attention in every stage behind its convolutional stem."""
    torch.manual_seed(0)
    backbone = LocalAttentionResNet(attention_impl=implementation)
    return with_random_norms(Classifier(backbone)).to(device)


def axial_backbone(device: str, span: int, implementation: str = "auto") -> nn.Module:
    """Axial-ResNet-S as Axial-DeepLab-S has it, at output stride 16."""
    torch.manual_seed(0)
    backbone = AxialResNet(
        span=span,
        output_stride=16,
        out_features=("res2", "res3", "res5"),
        attention_impl=implementation,
    )
    return with_random_norms(backbone).to(device)


def resnet50(device: str, memory_format: torch.memory_format) -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet50().to(device, memory_format=memory_format)


def with_random_norms(model: nn.Module) -> nn.Module:
    """Gives batch norms statistics and weights as in a trained network: none is 0.

    The last norm of every block starts at weight 0, which would hide the block from the check; it
    becomes small, since with large random ones rounding errors grow from block to block.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            largest = 1.0 if module.weight.any() else 0.1
            nn.init.uniform_(module.weight, largest / 2, largest)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


class TrainingStep:
    """Forward, cross entropy, backward and a step of SGD with momentum, in training mode."""

    def __init__(self, model: nn.Module, images: Tensor):
        self.model = model.train()
        self.images = images
        self.labels = torch.arange(len(images), device=images.device)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradients(self) -> Tensor:
        """All of the last step, in one vector."""
        grads = [parameter.grad for parameter in self.model.parameters()]
        return torch.cat([grad.flatten() for grad in grads if grad is not None])


def relative_error(given: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    given, expected = given.double().flatten(), expected.double().flatten()
    return float((given - expected).norm() / expected.norm())


def axial_deeplab(device: str, implementation: str = "auto") -> nn.Module:
    """Axial-DeepLab-S as ``configs/cityscapes/axial_deeplab_s.yaml`` has it: span 65."""
    cfg = get_cfg()
    add_axial_deeplab_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "cityscapes" / "axial_deeplab_s.yaml"))
    cfg.MODEL.AXIAL_RESNET.ATTENTION_IMPL = implementation
    return _built(cfg, device)


def panoptic_deeplab(device: str, separable: bool) -> nn.Module:
    """Detectron2's Panoptic-DeepLab R-52 for Cityscapes.

    With the values of its ``panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_crop_512_1024`` and,
    if ``separable``, of ``…_dsconv``; the installed package has no configs.
    """
    cfg = get_cfg()
    add_panoptic_deeplab_config(cfg)
    model = cfg.MODEL
    model.META_ARCHITECTURE = "PanopticDeepLab"
    model.BACKBONE.NAME = "build_resnet_deeplab_backbone"
    model.BACKBONE.FREEZE_AT = 0
    model.RESNETS.DEPTH = 50
    model.RESNETS.OUT_FEATURES = ["res2", "res3", "res5"]
    model.RESNETS.RES5_DILATION = 2
    model.RESNETS.RES5_MULTI_GRID = [1, 2, 4]
    model.RESNETS.STEM_TYPE = "deeplab"
    model.RESNETS.STEM_OUT_CHANNELS = 128
    model.RESNETS.STRIDE_IN_1X1 = False
    head = model.SEM_SEG_HEAD
    head.NAME = "PanopticDeepLabSemSegHead"
    head.IN_FEATURES = ["res2", "res3", "res5"]
    head.PROJECT_FEATURES = ["res2", "res3"]
    head.PROJECT_CHANNELS = [32, 64]
    head.CONVS_DIM = 256
    head.COMMON_STRIDE = 4
    head.NUM_CLASSES = 19
    head.USE_DEPTHWISE_SEPARABLE_CONV = separable
    model.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV = separable
    cfg.INPUT.FORMAT = "RGB"
    cfg.DATASETS.TRAIN = ("cityscapes_fine_panoptic_train",)
    return _built(cfg, device)


def _built(cfg: CfgNode, device: str) -> nn.Module:
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = ""
    for node in _nodes(cfg.MODEL):
        if "NORM" in node:
            node.NORM = "BN"  # one process
    torch.manual_seed(0)
    return with_random_norms(build_model(cfg))


def _nodes(node: CfgNode) -> Iterator[CfgNode]:
    yield node
    for child in node.values():
        if isinstance(child, CfgNode):
            yield from _nodes(child)
