"""Every config key that this project adds to Detectron2's, each with a comment."""

from detectron2.config import CfgNode as CN
from detectron2.projects.deeplab import add_deeplab_config


def add_ctxseg_config(cfg: CN) -> None:
    """Add this project's keys to ``cfg`` (the result of ``detectron2.config.get_cfg()``).

    DeepLab's keys come with them: the poly schedule (``SOLVER.POLY_LR_*``) and the crop rule
    (``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA``) are theirs.
    """
    add_deeplab_config(cfg)
    _add_data_config(cfg)
    _add_model_config(cfg)
    _add_engine_config(cfg)


def _add_data_config(cfg: CN) -> None:
    # YAML files that each describe a data set of your own (docs/DATASETS.md). They are registered
    # before training; name their splits in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.FOLDERS = []
    # Generate the data sets of DATASETS.TRAIN/TEST that are generated ones (ContextShapes) if
    # they are not on disk yet.
    cfg.DATASETS.GENERATE_MISSING = False

    # Training images are resized to MIN_SIZE_TRAIN and MAX_SIZE_TRAIN, both times a ratio drawn
    # uniformly from this range. (1.0, 1.0) turns it off.
    cfg.INPUT.RATIO_RANGE = (1.0, 1.0)
    # Random brightness, contrast, saturation and hue, as in SSD.
    cfg.INPUT.COLOR_AUG_SSD = False
    # Pad training images (with the mean pixel) and labels (with the ignore label) on the right and
    # the bottom to the crop size, so that all batches have one shape. Needs CROP.TYPE "absolute".
    cfg.INPUT.PAD_TO_CROP = True


def _add_model_config(cfg: CN) -> None:
    # The encoder of MODEL.BACKBONE.NAME "EncoderBackbone".
    cfg.MODEL.ENCODER = CN()
    # A name of segmentation-models-pytorch ("resnet18", "mit_b0", "mobilenet_v2") or, with the
    # prefix "tu-", of timm ("tu-convnext_tiny").
    cfg.MODEL.ENCODER.NAME = "resnet18"
    # "imagenet" (or another name the encoder offers): pretrained weights, fetched from the network.
    # "": random weights. Otherwise the path of a local .pth or .safetensors file.
    cfg.MODEL.ENCODER.WEIGHTS = "imagenet"
    # The stride of the deepest feature map: 32, 16 or 8 (the latter two through dilation).
    cfg.MODEL.ENCODER.OUTPUT_STRIDE = 32

    # The decoder of MODEL.SEM_SEG_HEAD.NAME "SMPDecoderHead".
    cfg.MODEL.SEM_SEG_HEAD.DECODER = CN()
    # A decoder of segmentation-models-pytorch: "UPerNet", "FPN", "Segformer", "PSPNet", ...
    cfg.MODEL.SEM_SEG_HEAD.DECODER.NAME = "UPerNet"
    # Keyword arguments of that decoder, as [name, value, name, value, ...].
    cfg.MODEL.SEM_SEG_HEAD.DECODER.OPTIONS = []

    # An FCN head on an intermediate feature map, used in training only.
    cfg.MODEL.AUXILIARY_HEAD = CN()
    cfg.MODEL.AUXILIARY_HEAD.ENABLED = False
    cfg.MODEL.AUXILIARY_HEAD.IN_FEATURE = "res4"
    cfg.MODEL.AUXILIARY_HEAD.CHANNELS = 256
    cfg.MODEL.AUXILIARY_HEAD.NUM_CONVS = 1
    cfg.MODEL.AUXILIARY_HEAD.DROPOUT = 0.1
    cfg.MODEL.AUXILIARY_HEAD.LOSS_WEIGHT = 0.4

    # The classifier that takes the place of the head's last 1x1 convolution. Which one it is
    # follows from MODEL.META_ARCHITECTURE.
    cfg.MODEL.CLASSIFIER = CN()
    # Probability of dropping a whole channel of the pixel features before the classifier.
    cfg.MODEL.CLASSIFIER.DROPOUT = 0.1
    # Whether logits are brought to the labels' size with align_corners.
    cfg.MODEL.CLASSIFIER.ALIGN_CORNERS = False
    # Context-aware classifier (AAAI 2023).
    cfg.MODEL.CLASSIFIER.CONTEXT_AWARE = CN()
    # The factor on the cosine similarity (tau).
    cfg.MODEL.CLASSIFIER.CONTEXT_AWARE.SCALE = 15.0
    # Weights of the four losses; 0 turns one off.
    cfg.MODEL.CLASSIFIER.CONTEXT_AWARE.LOSS_WEIGHT_REFINED = 1.0
    cfg.MODEL.CLASSIFIER.CONTEXT_AWARE.LOSS_WEIGHT_VANILLA = 1.0
    cfg.MODEL.CLASSIFIER.CONTEXT_AWARE.LOSS_WEIGHT_ORACLE = 1.0
    cfg.MODEL.CLASSIFIER.CONTEXT_AWARE.LOSS_WEIGHT_KL = 1.0


def _add_engine_config(cfg: CN) -> None:
    # "SGD" or "ADAMW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # The backbone's learning rate is BASE_LR times this.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0

    # Keep the checkpoint with the best value of this metric of the first test data set as
    # model_best.pth. "" turns it off.
    cfg.TEST.BEST_METRIC = "sem_seg/mIoU"
    # Draw this many validation images with truth and prediction at each evaluation in training.
    cfg.TEST.NUM_OVERLAYS = 4
    # Scales of multi-scale testing (TEST.AUG.ENABLED), relative to the size that single-scale
    # testing uses. Detectron2's TEST.AUG.MIN_SIZES and MAX_SIZE are not used.
    cfg.TEST.AUG.RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
