"""Registries, builders and the plain semantic segmentation model."""

from ..layers import ShapeSpec
from .backbone import BACKBONE_REGISTRY, Backbone, build_backbone
from .meta_arch import (
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    SemanticSegmentor,
    build_model,
    build_sem_seg_head,
)

__all__ = [
    "BACKBONE_REGISTRY",
    "META_ARCH_REGISTRY",
    "SEM_SEG_HEADS_REGISTRY",
    "Backbone",
    "SemanticSegmentor",
    "ShapeSpec",
    "build_backbone",
    "build_model",
    "build_sem_seg_head",
]
