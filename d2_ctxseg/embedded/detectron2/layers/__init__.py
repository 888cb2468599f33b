"""Layers for per-pixel models, under the names of upstream's ``detectron2.layers``."""

from .batch_norm import get_norm
from .shape_spec import ShapeSpec
from .wrappers import Conv2d

__all__ = ["Conv2d", "ShapeSpec", "get_norm"]
