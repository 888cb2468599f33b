"""Transforms (what to do to an image and its labels) and augmentations (how to choose one)."""

from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    GridSampleTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    ScaleTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from ..._coverage import module_getattr
from .augmentation import (
    AugInput,
    Augmentation,
    AugmentationList,
    RandomApply,
    StandardAugInput,
    TransformGen,
    apply_augmentations,
    apply_transform_gens,
)
from .color import RandomBrightness, RandomContrast, RandomSaturation
from .crop import FixedSizeCrop, RandomCrop, RandomCrop_CategoryAreaConstraint
from .geometry import RandomFlip, Resize, ResizeScale, ResizeShortestEdge
from .transform import ColorTransform, PILColorTransform, ResizeTransform

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "BlendTransform",
    "ColorTransform",
    "CropTransform",
    "FixedSizeCrop",
    "GridSampleTransform",
    "HFlipTransform",
    "NoOpTransform",
    "PILColorTransform",
    "PadTransform",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomFlip",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
    "ResizeTransform",
    "ScaleTransform",
    "StandardAugInput",
    "Transform",
    "TransformGen",
    "TransformList",
    "VFlipTransform",
    "apply_augmentations",
    "apply_transform_gens",
]

__getattr__ = module_getattr(__name__)
