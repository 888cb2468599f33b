"""The config keys of the DeepLab project."""

from ...config import CfgNode


def add_deeplab_config(cfg: CfgNode) -> None:
    """Add DeepLab's keys to ``cfg``, with Detectron2's default values."""
    # A random crop is tried again while one class takes more than this part of it.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0

    # WarmupPolyLR: the power, and the factor below which the rate does not fall.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0

    head = cfg.MODEL.SEM_SEG_HEAD
    # "cross_entropy" or "hard_pixel_mining".
    head.LOSS_TYPE = "hard_pixel_mining"
    head.PROJECT_FEATURES = ["res2"]
    head.PROJECT_CHANNELS = [48]
    head.ASPP_CHANNELS = 256
    head.ASPP_DILATIONS = [6, 12, 18]
    head.ASPP_DROPOUT = 0.1
    head.USE_DEPTHWISE_SEPARABLE_CONV = False

    resnet = cfg.MODEL.RESNETS
    resnet.RES4_DILATION = 1
    resnet.RES5_MULTI_GRID = [1, 2, 4]
    # "basic" or "deeplab".
    resnet.STEM_TYPE = "deeplab"
