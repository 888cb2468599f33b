"""Augmentations that resize and flip."""

# ruff: noqa: NPY002
# The global numpy generator is the one that Detectron2 seeds in every worker.

import sys

import numpy as np
from fvcore.transforms.transform import (
    HFlipTransform,
    NoOpTransform,
    Transform,
    VFlipTransform,
)

from .augmentation import Augmentation
from .transform import ResizeTransform

__all__ = ["RandomFlip", "ResizeShortestEdge"]


class RandomFlip(Augmentation):
    """Flips with a probability.

    Args:
        prob: in [0, 1].
        horizontal, vertical: the direction; exactly one must be true, ValueError otherwise.
    """

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False):
        if horizontal == vertical:
            raise ValueError(
                "RandomFlip is either horizontal or vertical, got "
                f"horizontal={horizontal}, vertical={vertical}. For both, use two of them."
            )
        self.prob = prob
        self.horizontal = horizontal
        self.vertical = vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if np.random.uniform(0.0, 1.0) >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class ResizeShortestEdge(Augmentation):
    """Resizes the shorter edge to a length; the aspect ratio stays.

    Args:
        short_edge_length: one length; or with style "range" the least and the greatest, with
            style "choice" all lengths, of which one is drawn. Length 0: no resize.
        max_size: the greatest length of the longer edge. An image whose longer edge would be
            longer becomes smaller as a whole.
        sample_style: "range" or "choice".
    """

    def __init__(
        self,
        short_edge_length: int | tuple[int, ...],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
    ):
        assert sample_style in ("range", "choice"), (
            f"sample_style must be 'range' or 'choice', got '{sample_style}'"
        )
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        assert sample_style == "choice" or len(short_edge_length) == 2, (
            "short_edge_length must be two values using 'range' sample style."
            f" Got {short_edge_length}!"
        )
        self.short_edge_length = short_edge_length
        self.max_size = max_size
        self.sample_style = sample_style

    def get_transform(self, image: np.ndarray) -> Transform:
        if self.sample_style == "range":
            least, greatest = self.short_edge_length
            size = np.random.randint(least, greatest + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        new_height, new_width = self.get_output_shape(height, width, size, self.max_size)
        return ResizeTransform(height, width, new_height, new_width)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        """(height, width) after the resize of an image of size (oldh, oldw)."""
        # The order of the floating point operations decides where halves are rounded to.
        size = float(short_edge_length)
        scale = size / min(oldh, oldw)
        height, width = (size, scale * oldw) if oldh < oldw else (scale * oldh, size)
        if max(height, width) > max_size:
            shrink = max_size / max(height, width)
            height, width = height * shrink, width * shrink
        return int(height + 0.5), int(width + 0.5)
