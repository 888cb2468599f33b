"""Augmentations that change brightness, contrast and saturation.

Each draws an intensity: below 1 there is less of the quality, at 1 nothing changes, above 1 there
is more (https://pillow.readthedocs.io/en/stable/reference/ImageEnhance.html).
"""

# ruff: noqa: NPY002
# The global numpy generator is the one that Detectron2 seeds in every worker.

import numpy as np
from fvcore.transforms.transform import BlendTransform

from .augmentation import Augmentation

__all__ = ["RandomBrightness", "RandomContrast", "RandomSaturation"]

# Luma of red, green and blue (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


class _RandomBlend(Augmentation):
    """Blends the image with one that lacks a quality.

    Args:
        intensity_min, intensity_max: the range of the image's weight, drawn uniformly; the other
            image has the weight that is left to 1.
    """

    def __init__(self, intensity_min: float, intensity_max: float):
        self.intensity_min = intensity_min
        self.intensity_max = intensity_max

    def _blend_with(self, other: float | np.ndarray) -> BlendTransform:
        intensity = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=other, src_weight=1 - intensity, dst_weight=intensity)


class RandomContrast(_RandomBlend):
    """Blends the image (H, W[, C]) with its mean value."""

    def get_transform(self, image: np.ndarray) -> BlendTransform:
        return self._blend_with(image.mean())


class RandomBrightness(_RandomBlend):
    """Blends the image (H, W[, C]) with black."""

    def get_transform(self, image: np.ndarray) -> BlendTransform:
        return self._blend_with(0)


class RandomSaturation(_RandomBlend):
    """Blends an RGB image (H, W, 3) with its greyscale version."""

    def get_transform(self, image: np.ndarray) -> BlendTransform:
        assert image.shape[-1] == 3, (
            f"RandomSaturation only works on RGB images (H, W, 3), got {image.shape}"
        )
        return self._blend_with(image.dot(_LUMA)[:, :, np.newaxis])
