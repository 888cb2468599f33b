"""Resize images, with or without antialiasing, and determine the size for testing."""

import math
from itertools import pairwise

import cv2
import numpy as np
from fvcore.transforms.transform import Transform

from detectron2.data import transforms as T

from ..utils.errors import UserError


class BilinearResizeTransform(T.ResizeTransform):
    """Resizes images by interpolation between four pixels, as mmsegmentation does.

    Detectron2's transform averages over all pixels when it makes uint8 images smaller
    (antialiasing). Labels are resized as there.
    """

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        """(H, W) or (H, W, C), uint8 or floating-point, to the new size."""
        if interp is not None:
            return super().apply_image(img, interp)
        resized = cv2.resize(img, (self.new_w, self.new_h), interpolation=cv2.INTER_LINEAR)
        return resized.reshape(self.new_h, self.new_w, *img.shape[2:])


def resize_transform(
    old: tuple[int, int], new: tuple[int, int], antialias: bool = True
) -> T.ResizeTransform:
    """From one height and width to another; ``antialias`` as in BilinearResizeTransform."""
    return (T.ResizeTransform if antialias else BilinearResizeTransform)(*old, *new)


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, with a choice of antialiasing."""

    def __init__(self, short_edge_length, max_size, sample_style="range", antialias=True):
        """
        Args:
            short_edge_length, max_size, sample_style: see Detectron2's ResizeShortestEdge.
            antialias (bool): see BilinearResizeTransform.
        """
        super().__init__(short_edge_length, max_size, sample_style)
        self.antialias = antialias

    def get_transform(self, image: np.ndarray) -> Transform:
        transform = super().get_transform(image)
        if self.antialias or not isinstance(transform, T.ResizeTransform):
            return transform
        return resize_transform(image.shape[:2], (transform.new_h, transform.new_w), False)


class ResizeForTest(T.Augmentation):
    """How images to be predicted are resized: one size for each, whatever was drawn in training.

    The shortest edge becomes a length, unless the longest then exceeds its own; the proportions
    stay. With ``divisor`` a second resize rounds the sides up to its multiples.
    """

    def __init__(self, short_edge_length, max_size, divisor=1, antialias=True):
        """
        Args:
            short_edge_length (float): of the shortest edge in pixels; 0: images keep their size.
            max_size (float): limit of the longest edge.
            divisor (int): sides become multiples of it, 1 for any (SegFormer on ADE20K: 32).
            antialias (bool): see BilinearResizeTransform.

        Raises:
            UserError: ``divisor`` is below 1.
        """
        super().__init__()
        if divisor < 1:
            raise UserError(
                f"INPUT.SIZE_DIVISIBILITY_TEST is {divisor}, expected a whole number of at least 1."
            )
        self._init(locals())

    @classmethod
    def from_config(cls, cfg) -> "ResizeForTest":
        """As INPUT says."""
        options = cfg.INPUT
        return cls(
            options.MIN_SIZE_TEST,
            options.MAX_SIZE_TEST,
            options.SIZE_DIVISIBILITY_TEST,
            options.ANTIALIAS,
        )

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        return self.transform_to((height, width), self.size(height, width))

    def size(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        """Height and width that an image gets, before they are rounded up to multiples.

        Args:
            height: height of the image.
            width: width of the image.
            ratio: factor on both edge lengths.
        """
        if not self.short_edge_length:
            return scaled_size(height, width, ratio)
        size = T.ResizeShortestEdge.get_output_shape(
            height, width, self.short_edge_length * ratio, self.max_size * ratio
        )
        return max(size[0], 1), max(size[1], 1)

    def rounded_up(self, size: tuple[int, int]) -> tuple[int, int]:
        """A height and a width as multiples of ``divisor``."""
        height, width = (math.ceil(side / self.divisor) * self.divisor for side in size)
        return height, width

    def transform_to(self, old: tuple[int, int], new: tuple[int, int]) -> T.TransformList:
        """From one height and width to another, and from that to multiples of ``divisor``."""
        path = pairwise([old, new, self.rounded_up(new)])
        steps = [step for step in path if step[0] != step[1]]
        return T.TransformList([resize_transform(*step, self.antialias) for step in steps])


def scaled_size(height: int, width: int, ratio: float) -> tuple[int, int]:
    """Height and width times a ratio, rounded, at least 1."""
    return max(round(height * ratio), 1), max(round(width * ratio), 1)
