"""Builds the backbone that a config names."""

from ...config import CfgNode
from ...layers import ShapeSpec
from ...utils.registry import Registry
from .._lookup import find_registered
from .backbone import Backbone

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = """Callables ``(cfg, input_shape: ShapeSpec) -> Backbone`` by name."""


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build the backbone ``cfg.MODEL.BACKBONE.NAME``.

    Args:
        input_shape: the input's shape; by default as many channels as ``cfg.MODEL.PIXEL_MEAN``.

    Raises:
        KeyError: no backbone of that name is registered.
        TypeError: what is registered does not build a `Backbone`.
    """
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    name = cfg.MODEL.BACKBONE.NAME
    backbone = find_registered(BACKBONE_REGISTRY, name, "MODEL.BACKBONE.NAME")(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise TypeError(
            f"MODEL.BACKBONE.NAME {name!r} built a {type(backbone).__name__}; expected a subclass "
            "of detectron2.modeling.Backbone."
        )
    return backbone
