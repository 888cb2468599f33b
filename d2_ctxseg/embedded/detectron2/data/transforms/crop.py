"""Augmentations that crop."""

# ruff: noqa: NPY002
# The global numpy generator is the one that Detectron2 seeds in every worker.

import numpy as np
from fvcore.transforms.transform import CropTransform, Transform

from .augmentation import Augmentation

__all__ = ["RandomCrop", "RandomCrop_CategoryAreaConstraint"]

_CROP_TYPES = ("relative_range", "relative", "absolute", "absolute_range")
_MAX_TRIALS = 10


class RandomCrop(Augmentation):
    """A crop at a random place.

    Args:
        crop_type: says what ``crop_size`` means. For an image of size (H, W):

            - "absolute": (height, width), at most (H, W).
            - "relative": (height, width) as parts of H and W, in (0, 1].
            - "relative_range": the least such parts; the greatest are 1.
            - "absolute_range": (least, greatest) length of each edge, at most H and W.
        crop_size: two numbers.
    """

    def __init__(self, crop_type: str, crop_size: tuple[float, float]):
        assert crop_type in _CROP_TYPES, (
            f"crop_type must be one of {_CROP_TYPES}, got '{crop_type}'"
        )
        self.crop_type = crop_type
        self.crop_size = crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        size = image.shape[:2]
        crop_height, crop_width = self.get_crop_size(size)
        y0, x0 = _random_corner(size, (crop_height, crop_width))
        return CropTransform(x0, y0, crop_width, crop_height)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of a crop of an image of size (height, width), drawn if it is random."""
        if self.crop_type == "absolute":
            return min(self.crop_size[0], image_size[0]), min(self.crop_size[1], image_size[1])
        if self.crop_type == "absolute_range":
            least, greatest = self.crop_size
            assert least <= greatest, f"crop_size must be (least, greatest), got {self.crop_size}"
            height, width = (
                np.random.randint(min(edge, least), min(edge, greatest) + 1) for edge in image_size
            )
            return height, width
        parts = self.crop_size
        if self.crop_type == "relative_range":
            least = np.asarray(self.crop_size, dtype=np.float32)
            parts = least + np.random.rand(2) * (1 - least)
        return int(image_size[0] * parts[0] + 0.5), int(image_size[1] * parts[1] + 0.5)


class RandomCrop_CategoryAreaConstraint(Augmentation):
    """A :class:`RandomCrop` in which no category takes too much of the area.

    Up to ten crops are tried; the last one is taken if none is good.

    Args:
        crop_type, crop_size: see :class:`RandomCrop`.
        single_category_max_area: the greatest part of the crop's labelled area that one category
            may take, in (0, 1]. 1.0 turns the constraint off.
        ignored_category: a label that is not counted, as a rule the ignore label.
    """

    def __init__(
        self,
        crop_type: str,
        crop_size: tuple[float, float],
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ):
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self.crop_type = crop_type
        self.crop_size = crop_size
        self.single_category_max_area = single_category_max_area
        self.ignored_category = ignored_category

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        if self.single_category_max_area >= 1.0:
            return self.crop_aug.get_transform(image)
        for _ in range(_MAX_TRIALS):
            height, width = self.crop_aug.get_crop_size(sem_seg.shape)
            y0, x0 = _random_corner(sem_seg.shape, (height, width))
            if self._is_mixed(sem_seg[y0 : y0 + height, x0 : x0 + width]):
                break
        return CropTransform(x0, y0, width, height)

    def _is_mixed(self, sem_seg: np.ndarray) -> bool:
        labels, areas = np.unique(sem_seg, return_counts=True)
        if self.ignored_category is not None:
            areas = areas[labels != self.ignored_category]
        return len(areas) > 1 and areas.max() < areas.sum() * self.single_category_max_area


def _random_corner(size: tuple[int, int], crop_size: tuple[int, int]) -> tuple[int, int]:
    """(y0, x0) of a crop that lies within the image; the row is drawn first."""
    assert crop_size[0] <= size[0] and crop_size[1] <= size[1], (
        f"A crop of (height, width) {crop_size} does not fit into an image of {tuple(size)}"
    )
    y0 = np.random.randint(size[0] - crop_size[0] + 1)
    x0 = np.random.randint(size[1] - crop_size[1] + 1)
    return y0, x0
