"""Config keys of axial_d2, with units, ranges and the paper's defaults."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config


def add_axial_resnet_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.AXIAL_RESNET``; :class:`axial_d2.backbone.AttentionResNet` has the meanings."""
    node = cfg.MODEL.AXIAL_RESNET = _attention_resnet_node()
    # Of every channel: 0.5 S, 0.75 M, 1.0 L, 2.0 XL, or any other number above 0.
    node.WIDTH_MULTIPLIER = 0.5
    node.STEM = "deeplab"
    node.STRIDING = "subsample"
    node.STAGE_TYPES = ["axial", "axial", "axial", "axial"]
    node.SPAN = 0


def add_local_attention_resnet_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.LOCAL_ATTENTION_RESNET``, with the keys of ``MODEL.AXIAL_RESNET``."""
    node = cfg.MODEL.LOCAL_ATTENTION_RESNET = _attention_resnet_node()
    node.WIDTH_MULTIPLIER = 1.0
    node.STEM = "conv7"
    node.STRIDING = "avg_pool"
    node.STAGE_TYPES = ["local", "local", "local", "local"]
    node.SPAN = 7


def _attention_resnet_node() -> CfgNode:
    node = CfgNode()
    # Layers: 26, 38 or 50.
    node.DEPTH = 50
    # Of every channel after the stem, above 0.
    node.WIDTH_MULTIPLIER = 1.0
    # conv7, conv7_unpooled, deeplab, inception, axial or attention.
    node.STEM = "conv7"
    # Of the stem's channels; 0 follows WIDTH_MULTIPLIER.
    node.STEM_WIDTH_MULTIPLIER = 0.0
    # subsample or avg_pool.
    node.STRIDING = "subsample"
    # One of axial, conv, local, local_ps, global for each of res2 ... res5.
    node.STAGE_TYPES = ["conv", "conv", "conv", "conv"]
    node.NUM_HEADS = 8
    # Positions a query attends to, to a side: odd, or 0 for its whole row or column (axial only).
    node.SPAN = 0
    # A span for each of res2 ... res5; empty: SPAN everywhere.
    node.STAGE_SPANS = []
    # Axial position tables have 2 * MAX_SPAN - 1 rows; positions beyond share the last one.
    node.MAX_SPAN = 255
    # Of local stages: relative, absolute or none.
    node.POSITIONS = "relative"
    # Terms of the attention, each on or off, for the papers' ablations.
    node.TERMS = CfgNode()
    node.TERMS.QUERY_KEY = True
    node.TERMS.QUERY_POSITION = True
    node.TERMS.KEY_POSITION = True
    node.TERMS.VALUE_CONTENT = True
    node.TERMS.VALUE_POSITION = True
    # 8, 16 (segmentation) or 32 (classification, FPN).
    node.OUTPUT_STRIDE = 16
    # Some of stem, res2, res3, res4, res5.
    node.OUT_FEATURES = ["res2", "res3", "res5"]
    # BN, SyncBN, naiveSyncBN or FrozenBN; also used inside attention.
    node.NORM = "SyncBN"
    # PyTorch's; the weights of DeepLab2 need 0.001 and 0.01.
    node.NORM_EPS = 1e-5
    # Weight of a new batch in the running statistics: above 0, at most 1.
    node.NORM_MOMENTUM = 0.1
    # auto, reference, blocked, triton (fused CUDA kernels) or cpp (C++ kernels for CPUs); auto
    # takes kernels where it can.
    node.ATTENTION_IMPL = "auto"
    # Some of res2, res3, res4, res5: in training they keep the inputs of their blocks alone and
    # compute the rest again in the backward; less memory for about one more forward of them.
    node.CHECKPOINT_STAGES = []
    return node


def add_conv_axial_resnet_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.MAX_DEEPLAB_S`` and ``MODEL.AXIAL_SWIDERNET``, DeepLab2's backbones.

    :class:`axial_d2.backbone.conv_axial_resnet.ConvAxialResNet` has the meanings.
    """
    cfg.MODEL.MAX_DEEPLAB_S = _conv_axial_resnet_node()
    # LAYER_MULTIPLIER 1.0, 3.0 or 4.5; at 1.0 also the backbone of MaX-DeepLab-L.
    cfg.MODEL.AXIAL_SWIDERNET = _conv_axial_resnet_node()


def _conv_axial_resnet_node() -> CfgNode:
    node = CfgNode()
    # Of the number of blocks in res2 ... res5, truncated to integers: 1/3 or more.
    node.LAYER_MULTIPLIER = 1.0
    # Of every channel after the stem, above 0.
    node.WIDTH_MULTIPLIER = 1.0
    # Of the stem's channels; 0 follows WIDTH_MULTIPLIER.
    node.STEM_WIDTH_MULTIPLIER = 0.0
    node.NUM_HEADS = 8
    # Positions a query attends to: odd, or 0 for its whole row or column.
    node.SPAN = 0
    # Position tables have 2 * MAX_SPAN - 1 rows; positions beyond share the last one.
    node.MAX_SPAN = 255
    # Probability that training drops the branch of a block at stride 32, linearly less at finer
    # strides: 0 (never) to below 1.
    node.DROP_PATH_RATE = 0.2
    # 8, 16 (segmentation) or 32.
    node.OUTPUT_STRIDE = 16
    # Some of stem, res2, res3, res4, res5.
    node.OUT_FEATURES = ["res2", "res3", "res5"]
    # BN, SyncBN, naiveSyncBN or FrozenBN; also used inside attention.
    node.NORM = "SyncBN"
    # TensorFlow's, which the public weights were trained with.
    node.NORM_EPS = 0.001
    # Weight of a new batch in the running statistics: above 0, at most 1.
    node.NORM_MOMENTUM = 0.01
    # auto, reference, blocked, triton or cpp, as in AXIAL_RESNET.
    node.ATTENTION_IMPL = "auto"
    # Some of res2 ... res5, as in AXIAL_RESNET.
    node.CHECKPOINT_STAGES = []
    return node


def add_deeplab2_semantics_config(cfg: CfgNode) -> None:
    """Adds what decoders and outputs need to compute DeepLab2's numbers; off by default."""
    for node in (cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.INS_EMBED_HEAD):
        # Of the branch's decoder and head: PyTorch's; the weights of DeepLab2 need 0.001, 0.01.
        node.NORM_EPS = 1e-5
        # Weight of a new batch in the running statistics: above 0, at most 1.
        node.NORM_MOMENTUM = 0.1
    # Whether resizes in decoders, losses and inference map corner pixels onto corner pixels. If
    # so, images are padded with PIXEL_MEAN to one more than a common multiple of the backbone's
    # strides and SIZE_DIVISIBILITY.
    cfg.MODEL.PANOPTIC_DEEPLAB.ALIGN_CORNERS = False


def add_detection_config(cfg: CfgNode) -> None:
    """Adds attention to ``MODEL.FPN`` and ``MODEL.RETINANET``, whose other keys are Detectron2's.

    :class:`axial_d2.backbone.attention_fpn.AttentionFPN` and
    :class:`axial_d2.heads.AttentionRetinaNetHead` have the meanings.
    """
    # What p6 of a RetinaNet is made from in axial_d2's pyramids: a feature of the backbone
    # (Detectron2: res5) or the pyramid's coarsest level (p5; fits SASA's parameters).
    cfg.MODEL.FPN.TOP_INPUT = "res5"
    cfg.MODEL.FPN.ATTENTION = _head_attention_node()
    # Some of output (behind each merged level) and top (p6 and p7); others stay convolutions.
    cfg.MODEL.FPN.ATTENTION.PARTS = ["output", "top"]
    # Of AttentionRetinaNet; RETINANET.NUM_CONVS are its layers in front of the one that predicts.
    cfg.MODEL.RETINANET.ATTENTION = _head_attention_node()


def _head_attention_node() -> CfgNode:
    node = CfgNode()
    # Twice that divides the channels: positions of a head are half row and half column.
    node.NUM_HEADS = 8
    # Side of the window: odd.
    node.SPAN = 7
    # auto, reference, blocked or triton.
    node.IMPL = "auto"
    return node


def add_lookahead_config(cfg: CfgNode) -> None:
    """Adds ``SOLVER.LOOKAHEAD``; :class:`axial_d2.lookahead.Lookahead` documents the values."""
    node = cfg.SOLVER.LOOKAHEAD = CfgNode()
    # Around whatever SOLVER.OPTIMIZER names.
    node.ENABLED = False
    # Steps of the optimizer a cycle: 1 or more.
    node.STEPS = 5
    # How far the slow weights go to the fast ones: 0 (not at all) to 1 (no Lookahead).
    node.ALPHA = 0.5


def add_ema_config(cfg: CfgNode) -> None:
    """Adds ``SOLVER.EMA``; :class:`axial_d2.engine.ema.EMAHook` documents the values."""
    node = cfg.SOLVER.EMA = CfgNode()
    # Whether an exponential moving average of the weights is kept, saved and tested.
    node.ENABLED = False
    # From 0 to below 1; the average reaches back about 1 / (1 - DECAY) iterations.
    node.DECAY = 0.9999
    # Whether running statistics are averaged as well, or the newest ones taken.
    node.BUFFERS = True


def add_dual_attention_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.DUAL_ATTENTION``; :class:`axial_d2.heads.DualAttentionHead` has the meanings.

    ``MODEL.SEM_SEG_HEAD`` has its other keys; its ``CONVS_DIM`` are the channels of a branch.
    """
    node = cfg.MODEL.DUAL_ATTENTION = CfgNode()
    # attention, convolutions (the branch without its attention layer) or none (left out).
    node.POSITION_BRANCH = "attention"
    node.CHANNEL_BRANCH = "attention"
    # energy (the paper's: similar channels weigh most) or reversed_energy (the released code's).
    node.CHANNEL_SOFTMAX = "energy"
    # Of queries and keys: 1 or more; 0 for an eighth of CONVS_DIM.
    node.KEY_CHANNELS = 0
    # In front of each classifier: 0 to below 1.
    node.DROPOUT = 0.1


def add_scale_attention_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.SCALE_ATTENTION`` and ``MODEL.VGG16_LARGEFOV``.

    :class:`axial_d2.meta_arch.ScaleAttentionSegmentor` and
    :class:`axial_d2.backbone.vgg.VGG16LargeFOV` have the meanings.
    """
    node = cfg.MODEL.SCALE_ATTENTION = CfgNode()
    # Ratios above 0 of the image's size.
    node.SCALES = (1.0, 0.75, 0.5)
    # As many, for inference; empty: SCALES.
    node.TEST_SCALES = ()
    # attention, average or maximum.
    node.MERGING = "attention"
    # Between the attention net's two convolutions.
    node.CHANNELS = 512
    # Behind the first of them; empty: none, as in the paper.
    node.NORM = ""
    # Whether each scale's scores have a loss of their own, beside that of the merged ones.
    node.SCALE_LOSSES = True
    # An additional loss that is not the paper's: a classifier of which scale features come from.
    node.SCALE_DISCRIMINATOR = False

    node = cfg.MODEL.VGG16_LARGEFOV = CfgNode()
    # Of every channel, above 0.
    node.WIDTH_MULTIPLIER = 1.0
    # Behind every convolution; empty: none, as in the paper.
    node.NORM = ""
    # Behind fc6 and fc7: 0 to below 1.
    node.DROPOUT = 0.5
    # Some of conv1 ... conv5, fc7.
    node.OUT_FEATURES = ["fc7"]


def add_sliding_window_config(cfg: CfgNode) -> None:
    """Adds ``TEST.SLIDING_WINDOW``, for SlidingWindowSegmentor and ScaleAttentionSegmentor."""
    node = cfg.TEST.SLIDING_WINDOW = CfgNode()
    # Whether inference sees one window of the network's input at a time.
    node.ENABLED = False
    # Height and width in pixels, and the way from one window to the next, no larger.
    node.SIZE = (768, 768)
    node.STRIDE = (512, 512)


def add_classifier_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.CLASSIFIER``; :class:`axial_d2.meta_arch.ImageClassifier` has the meanings."""
    node = cfg.MODEL.CLASSIFIER = CfgNode()
    node.NUM_CLASSES = 1000
    # The backbone's feature that is pooled; its OUT_FEATURES must have it.
    node.IN_FEATURE = "res5"
    # In front of the linear layer: 0 to below 1.
    node.DROPOUT = 0.0
    # Share of the target that goes to all classes alike: 0 to below 1.
    node.LABEL_SMOOTHING = 0.0
    # Of the beta distribution that mixup's shares come from: above 0, or 0 for no mixup.
    node.MIXUP_ALPHA = 0.0


def add_classification_input_config(cfg: CfgNode) -> None:
    """Adds ``INPUT.CLASSIFICATION``; :class:`axial_d2.data.ClassificationMapper` documents it."""
    node = cfg.INPUT.CLASSIFICATION = CfgNode()
    # Height and width of what the network sees, in pixels.
    node.CROP_SIZE = 224
    # Share of the image's area in a training crop: above 0 to 1, least and greatest.
    node.SCALE = (0.08, 1.0)
    # Width / height of a training crop before it is resized: above 0, least and greatest.
    node.RATIO = (3 / 4, 4 / 3)
    # Operations of RandAugment a training image: 0 (off) or more.
    node.RANDAUGMENT_OPS = 0
    # Of those operations: 0 to 30.
    node.RANDAUGMENT_MAGNITUDE = 9
    # Shorter edge at test, of which CROP_SIZE is cut from the centre: CROP_SIZE or more, or 0 for
    # the image's own size.
    node.TEST_SIZE = 256


def add_axial_deeplab_config(cfg: CfgNode) -> None:
    """Adds every key that axial_d2 reads, in place.

    Includes Detectron2's own Panoptic-DeepLab and DeepLab keys, with this project's heads as
    their defaults.
    """
    add_panoptic_deeplab_config(cfg)
    add_axial_resnet_config(cfg)
    add_local_attention_resnet_config(cfg)
    add_conv_axial_resnet_config(cfg)
    add_deeplab2_semantics_config(cfg)
    add_detection_config(cfg)
    add_lookahead_config(cfg)
    add_ema_config(cfg)
    add_dual_attention_config(cfg)
    add_scale_attention_config(cfg)
    add_sliding_window_config(cfg)
    add_classifier_config(cfg)
    add_classification_input_config(cfg)
    cfg.MODEL.INS_EMBED_HEAD.NAME = "AxialDeepLabInsEmbedHead"
    # What stands between the backbone and each decoder: none, projection (1x1 convolution to
    # ASPP_CHANNELS) or aspp.
    cfg.MODEL.SEM_SEG_HEAD.DECODER_INPUT = "none"
    cfg.MODEL.INS_EMBED_HEAD.DECODER_INPUT = "none"
    # Test-time augmentation, beside Detectron2's TEST.AUG.ENABLED, FLIP, MIN_SIZES and MAX_SIZE:
    # ratios above 0 of the plain test size (the paper's multi-scale: 0.5, 0.75 ... 2.0), which
    # replace MIN_SIZES and MAX_SIZE. Empty: MIN_SIZES and MAX_SIZE count.
    cfg.TEST.AUG.SCALES = ()
    # Data sets to register before training: [name, image folder, panoptic PNG folder, panoptic
    # JSON] each; axial_d2.data.register_panoptic_dataset does the same from Python.
    cfg.DATASETS.PANOPTIC = []
    # The same for classification: [name, folder that holds one folder a class] each;
    # axial_d2.data.register_image_folder does the same from Python.
    cfg.DATASETS.IMAGE_FOLDERS = []
