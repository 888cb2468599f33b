"""Rules for the keys of Detectron2's own backbones and heads."""

from ...modeling.heads.adapter import LOSS_TYPES
from ..expectations import choice, one_of_integers, several
from .values import COUNT, FEATURES, SHARE, Rules

_NORM = choice(("", "BN", "SyncBN", "nnSyncBN", "FrozenBN", "GN", "LN", "naiveSyncBN"))
RESNETS = ("build_resnet_backbone", "build_resnet_deeplab_backbone")
FPNS = ("build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone")
DETECTRON2_HEADS = ("SemSegFPNHead", "DeepLabV3Head", "DeepLabV3PlusHead")
DETECTRON2_HEAD_RULES: Rules = {
    "IN_FEATURES": FEATURES,
    "CONVS_DIM": COUNT,
    "COMMON_STRIDE": COUNT,
    "NORM": _NORM,
}
DEEPLAB_RULES: Rules = {
    "LOSS_TYPE": choice(LOSS_TYPES),
    "ASPP_CHANNELS": COUNT,
    "ASPP_DILATIONS": several(COUNT, length=3),
    "ASPP_DROPOUT": SHARE,
}
RESNET_RULES: Rules = {
    "DEPTH": one_of_integers(18, 34, 50, 101, 152),
    "OUT_FEATURES": FEATURES,
    "NORM": _NORM,
    "NUM_GROUPS": COUNT,
    "WIDTH_PER_GROUP": COUNT,
    "RES2_OUT_CHANNELS": COUNT,
    "STEM_OUT_CHANNELS": COUNT,
    "RES4_DILATION": one_of_integers(1, 2),
    "RES5_DILATION": one_of_integers(1, 2, 4),
    "RES5_MULTI_GRID": several(COUNT, length=3),
    "STEM_TYPE": choice(("basic", "deeplab")),
}
FPN_RULES: Rules = {
    "IN_FEATURES": FEATURES,
    "OUT_CHANNELS": COUNT,
    "NORM": _NORM,
    "FUSE_TYPE": choice(("sum", "avg")),
}
