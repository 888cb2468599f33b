"""Layers for per-pixel models, under the names of upstream's ``detectron2.layers``."""

from .._coverage import module_getattr
from .aspp import ASPP
from .batch_norm import FrozenBatchNorm2d, get_norm
from .blocks import CNNBlockBase, DepthwiseSeparableConv2d
from .shape_spec import ShapeSpec
from .wrappers import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Linear,
    cat,
    cross_entropy,
    interpolate,
)

__all__ = [
    "ASPP",
    "BatchNorm2d",
    "CNNBlockBase",
    "Conv2d",
    "ConvTranspose2d",
    "DepthwiseSeparableConv2d",
    "FrozenBatchNorm2d",
    "Linear",
    "ShapeSpec",
    "cat",
    "cross_entropy",
    "get_norm",
    "interpolate",
]

__getattr__ = module_getattr(__name__)
