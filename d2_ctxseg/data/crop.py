# ruff: noqa: NPY002 -- Detectron2 seeds the global generator of NumPy in each worker, no other.
"""Resize and crop in one step: only the pixels within the crop are resized."""

import math
from functools import lru_cache
from itertools import starmap

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import Transform

from detectron2.data import transforms as T

from .resize import BilinearResizeTransform

_MAX_TRIALS = 10
_SAMPLED = 8


class ResizeAndCrop(T.Augmentation):
    """Detectron2's ``RandomCrop_CategoryAreaConstraint`` after a resize, as one augmentation.

    The random numbers, and so the crops, are those of the two steps. Labels are equal; images
    differ by the rounding that ResizeAndCropTransform states.
    """

    def __init__(
        self, resize, crop_type, crop_size, single_category_max_area=1.0, ignored_category=None
    ):
        """
        Args:
            resize (Augmentation): gives a ``ResizeTransform`` or a ``NoOpTransform``.
            crop_type (str): as in Detectron2's ``RandomCrop``.
            crop_size: size of the crop in the resized image, see ``RandomCrop``.
            single_category_max_area (float): a crop needs two categories, and each must have less
                than this fraction of the labelled area. Ten crops are tried; the last one is
                taken if none fits. 1.0 turns the constraint off.
            ignored_category (int): a label that is not counted.
        """
        super().__init__()
        self._init(locals())
        self._crop = T.RandomCrop(crop_type, crop_size)

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        resize = self.resize.get_transform(image)
        if not isinstance(resize, T.ResizeTransform):
            resize = T.ResizeTransform(*image.shape[:2], *image.shape[:2])
        rows, columns = nearest_pixels(resize, sem_seg.dtype)
        for _ in range(_MAX_TRIALS):
            height, width = self._crop.get_crop_size((resize.new_h, resize.new_w))
            top = np.random.randint(resize.new_h - height + 1)
            left = np.random.randint(resize.new_w - width + 1)
            if self.single_category_max_area >= 1.0:
                break
            kept = _take(sem_seg, rows[top : top + height], columns[left : left + width])
            if self._is_mixed(kept):
                break
        return ResizeAndCropTransform(resize, top, left, height, width)

    def _is_mixed(self, labels: np.ndarray) -> bool:
        """Whether every category is below the limit.

        The most frequent categories of a few pixels are counted first. Usually two or three counts
        decide; a histogram of all pixels takes ten times as long.
        """
        rest = labels.size - np.count_nonzero(labels == self.ignored_category)
        limit = rest * self.single_category_max_area
        values, areas = self._areas(labels[::_SAMPLED, ::_SAMPLED])
        for value in values[np.argsort(-areas)]:
            area = np.count_nonzero(labels == value)
            if area >= limit:
                return False
            rest -= area
            if rest < limit:
                return True
        _, areas = self._areas(labels)
        return len(areas) > 1 and areas.max() < limit

    def _areas(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The categories that occur, without the ignored one, and their numbers of pixels."""
        if labels.dtype == np.uint8:  # np.unique sorts and is slow
            areas = np.bincount(labels.ravel(), minlength=256)
            values = np.arange(256)
        else:
            values, areas = np.unique(labels, return_counts=True)
        counts = (areas > 0) & (values != self.ignored_category)
        return values[counts], areas[counts]


class ResizeAndCropTransform(Transform):
    """A crop of a resized image. Only the pixels of the source that it needs are resized.

    Labels equal the crop of the whole resized label. uint8 images differ from the crop of the whole
    resized image, in units of 1/255:

    - without antialiasing (BilinearResizeTransform): by at most 1, in less than 1 % of the values.
      OpenCV rounds pixel coordinates, and they are relative to the part.
    - with antialiasing, enlarged: by at most 1. OpenCV rounds once, Pillow twice (rows, columns).
    - with antialiasing, reduced: by at most 2. PyTorch rounds the weights to 16 bits, Pillow to 22.
    - with antialiasing, one side enlarged and the other reduced, or with 2 or 4 channels: not at
      all. Pillow resizes the whole image.

    float32 images differ by the rounding of float32. Images of other types are resized whole.
    """

    def __init__(self, resize: T.ResizeTransform, top: int, left: int, height: int, width: int):
        super().__init__()
        self.resize = resize
        self.top, self.left, self.height, self.width = top, left, height, width

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        """(H, W) or (H, W, C), uint8 or floating-point; ``interp`` as in ``ResizeTransform``."""
        old = self.resize.h, self.resize.w
        factors = self.resize.new_h / self.resize.h, self.resize.new_w / self.resize.w
        resize = None if interp is not None else self._way_to_resize(img, factors)
        if resize is None:
            return self._crop(self.resize.apply_image(img, interp), self.top, self.left)
        assert img.shape[:2] == old, f"This transform is for images of {old}, got {img.shape[:2]}"
        sides = (
            (self.resize.h, self.resize.new_h, self.top, self.height),
            (self.resize.w, self.resize.new_w, self.left, self.width),
        )
        (rows, top), (columns, left) = starmap(needed_pixels, sides)
        resized = resize(img[rows, columns], factors)
        return self._crop(resized, self.top - top, self.left - left)

    def _way_to_resize(self, img: np.ndarray, factors: tuple[float, float]):
        """The function that resizes a part of the image; None: only the whole can be resized."""
        if img.dtype not in (np.uint8, np.float32):
            return None
        if img.dtype == np.float32 or isinstance(self.resize, BilinearResizeTransform):
            return _interpolate
        if np.atleast_3d(img).shape[2] not in (1, 3):  # Pillow treats others as transparency
            return None
        if min(factors) >= 1:
            return _interpolate
        return _average if max(factors) <= 1 else None

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """The nearest labels (H, W), of any type."""
        rows, columns = nearest_pixels(self.resize, segmentation.dtype)
        rows = rows[self.top : self.top + self.height]
        columns = columns[self.left : self.left + self.width]
        return _take(segmentation, rows, columns)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Points (N, 2), each (x, y)."""
        return self.resize.apply_coords(coords) - (self.left, self.top)

    def _crop(self, resized: np.ndarray, top: int, left: int) -> np.ndarray:
        return resized[top : top + self.height, left : left + self.width]


def needed_pixels(old: int, new: int, first: int, number: int) -> tuple[slice, int]:
    """Find the part of a row that has to be resized to get some pixels of the resized row.

    The part starts where a pixel of the row and a pixel of the resized row start together, at a
    multiple of ``old / gcd(old, new)``. Resized by the same factor, it gives a part of the resized
    row.

    Args:
        old: length of the row.
        new: length of the resized row.
        first: the first pixel wanted, in the resized row.
        number: the number of pixels wanted.

    Returns:
        The part of the row, and the index in the resized row of the first pixel it gives.
    """
    factor, divisor = new / old, math.gcd(old, new)
    # The filter's radius is one pixel of the row or of the resized row, whichever is larger.
    margin = math.ceil((max(1 / factor, 1) + 1) * factor)
    period = max(first - margin, 0) * divisor // new
    start = period * old // divisor
    stop = min(math.ceil((first + number + margin) / factor) + 1, old)
    if round((stop - start) * factor) == stop - start:
        # OpenCV copies an image that keeps its size, whatever the factor.
        return slice(0, old), 0
    return slice(start, stop), period * new // divisor


def nearest_pixels(resize: T.ResizeTransform, dtype) -> tuple[np.ndarray, np.ndarray]:
    """The source row of each row of a resized label, and the source column of each column."""
    is_bytes = dtype == np.uint8
    rows = _nearest(resize.h, resize.new_h, is_bytes)
    return rows, _nearest(resize.w, resize.new_w, is_bytes)


@lru_cache(maxsize=4)  # rows and columns, first for drawing the crop, then for applying it
def _nearest(old: int, new: int, is_bytes: bool) -> np.ndarray:
    """The pixels that Detectron2 takes: by Pillow for bytes, by PyTorch for other types."""
    if not is_bytes:
        numbers = np.arange(old, dtype=np.float32)[None]
        return T.ResizeTransform(1, old, 1, new).apply_segmentation(numbers)[0].astype(np.intp)
    # Pillow adds up the steps, with their rounding errors. It copies an unchanged length.
    steps = np.full(new, old / new)
    steps[0] = 0.0 if old == new else steps[0] / 2
    return np.add.accumulate(steps).astype(np.intp)


def _take(label: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``label[rows][:, columns]``, both ascending. Whole rows are copied faster than labels."""
    needed = label[rows[0] : rows[-1] + 1]
    if len(needed) > len(rows):
        return label.take(rows, 0).take(columns, 1)
    return needed.take(columns, 1).take(rows - rows[0], 0)


def _interpolate(img: np.ndarray, factors: tuple[float, float]) -> np.ndarray:
    """Resize by bilinear interpolation between four pixels, with OpenCV."""
    fy, fx = factors
    resized = cv2.resize(img, None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*resized.shape[:2], *img.shape[2:])


def _average(img: np.ndarray, factors: tuple[float, float]) -> np.ndarray:
    """Reduce with antialiasing, with PyTorch, which is faster than Pillow; factors <= 1."""
    writable = np.require(np.atleast_3d(img), requirements="W")  # or PyTorch warns
    channels_first = torch.from_numpy(writable).permute(2, 0, 1)[None]
    # PyTorch rounds the size down; length times factor may lie just below a whole number.
    fy, fx = (factor * (1 + 1e-9) if factor < 1 else 1.0 for factor in factors)
    resized = F.interpolate(channels_first, scale_factor=(fy, fx), mode="bilinear", antialias=True)[
        0
    ].permute(1, 2, 0)
    return resized.numpy().reshape(*resized.shape[:2], *img.shape[2:])
