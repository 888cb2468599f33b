"""Transforms (what to do to an image and its labels) and augmentations (how to choose one)."""

from fvcore.transforms.transform import NoOpTransform, Transform, TransformList

from .augmentation import AugInput, Augmentation, AugmentationList
from .crop import RandomCrop, RandomCrop_CategoryAreaConstraint
from .geometry import RandomFlip, ResizeShortestEdge
from .transform import ResizeTransform

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "NoOpTransform",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomFlip",
    "ResizeShortestEdge",
    "ResizeTransform",
    "Transform",
    "TransformList",
]
