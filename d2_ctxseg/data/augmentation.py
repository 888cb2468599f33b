# ruff: noqa: NPY002 -- Detectron2 seeds the global generator of NumPy in each worker, no other.
"""Augmentations of the papers that Detectron2 lacks."""

import cv2
import numpy as np
from fvcore.transforms.transform import HFlipTransform, Transform

from detectron2.data import transforms as T

from .resize import resize_transform

_BRIGHTNESS_DELTA = 32
_CONTRAST_RANGE = (0.5, 1.5)
_SATURATION_RANGE = (0.5, 1.5)
_HUE_DELTA = 18
# OpenCV's 8-bit hue counts in steps of two degrees.
_NUM_HUES = 180
_UNCHANGED = np.arange(256, dtype=np.uint8)


class ResizeRatioRange(T.Augmentation):
    """Resize so that the image just fits into (short edge, long edge) times a random ratio.

    The proportions of the image stay, or change at random by ``aspect_range``. This is the "resize
    2048x512 x (0.5-2.0)" of the papers: ``ResizeRatioRange(512, 2048, (0.5, 2.0))``.
    """

    def __init__(
        self,
        short_edge_length,
        max_size,
        ratio_range,
        sample_style="choice",
        aspect_range=(1.0, 1.0),
        antialias=True,
    ):
        """
        Args:
            short_edge_length (int or sequence of int): one of these (``sample_style`` "choice") or
                one between the two (``"range"``) is taken for each image.
            max_size (int): limit of the long edge.
            ratio_range ((float, float)): the ratio is drawn uniformly from this interval.
            aspect_range ((float, float)): width by height is multiplied with a number drawn
                uniformly from this interval; the area stays.
            antialias (bool): see ``resize.BilinearResizeTransform``.

        Raises:
            ValueError: a length or an interval is not positive, or the style unknown.
        """
        super().__init__()
        for name, (low, high) in (("ratio_range", ratio_range), ("aspect_range", aspect_range)):
            if not 0 < low <= high:
                raise ValueError(f"{name} must be 0 < low <= high, but is {(low, high)}.")
        if sample_style not in ("choice", "range"):
            raise ValueError(f"sample_style must be 'choice' or 'range', but is {sample_style!r}.")
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length,)
        if min(short_edge_length) < 1:
            raise ValueError(f"short_edge_length must be positive, but is {short_edge_length}.")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        lengths = self.short_edge_length
        if self.sample_style == "choice":
            length = np.random.choice(lengths)
        else:
            length = np.random.randint(min(lengths), max(lengths) + 1)
        ratio = np.random.uniform(*self.ratio_range)
        height, width = image.shape[:2]
        new_height, new_width = T.ResizeShortestEdge.get_output_shape(
            height, width, length * ratio, self.max_size * ratio
        )
        if tuple(self.aspect_range) != (1.0, 1.0):
            factor = np.sqrt(np.random.uniform(*self.aspect_range))
            new_height, new_width = round(new_height / factor), round(new_width * factor)
        new = max(new_height, 1), max(new_width, 1)
        return resize_transform((height, width), new, self.antialias)


class RandomFlip(T.RandomFlip):
    """Detectron2's RandomFlip with contiguous results.

    Detectron2's results are views with negative strides, which later steps have to copy slowly.
    """

    def get_transform(self, image: np.ndarray) -> Transform:
        transform = super().get_transform(image)
        if isinstance(transform, T.NoOpTransform):
            return transform
        return _FlipTransform(transform)


class _FlipTransform(Transform):
    """``flip``, an HFlipTransform or VFlipTransform of fvcore, with OpenCV in place of NumPy."""

    def __init__(self, flip: Transform):
        super().__init__()
        self.flip = flip

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        flipped = cv2.flip(img, 1 if isinstance(self.flip, HFlipTransform) else 0)
        return flipped.reshape(img.shape)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return self.flip.apply_coords(coords)

    def inverse(self) -> Transform:
        return self.flip.inverse()


class PadToSize(T.Augmentation):
    """Pad on the right and the bottom up to a size; larger images stay as they are."""

    def __init__(self, size, image_value, label_value):
        """
        Args:
            size ((int, int)): height and width.
            image_value (sequence of float): the colour of the padding, one value a channel.
            label_value (int): the label of the padding.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        bottom = max(self.size[0] - image.shape[0], 0)
        right = max(self.size[1] - image.shape[1], 0)
        if bottom == right == 0:
            return T.NoOpTransform()
        return _PadTransform(bottom, right, self.image_value, self.label_value)


class _PadTransform(Transform):
    """fvcore's PadTransform knows one value for all channels only."""

    def __init__(self, bottom: int, right: int, image_value, label_value):
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        value = np.asarray(self.image_value)
        if np.issubdtype(img.dtype, np.integer):
            value = np.rint(value)
        return self._pad(img, value.astype(img.dtype))

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._pad(segmentation, self.label_value)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def _pad(self, array: np.ndarray, value) -> np.ndarray:
        height, width = array.shape[:2]
        padded = np.empty((height + self.bottom, width + self.right, *array.shape[2:]), array.dtype)
        # NumPy copies whole lines many times faster than single colours.
        line = np.empty(padded.shape[1:], array.dtype)
        line[:] = value
        padded[height:] = line
        padded[:height, width:] = line[width:]
        padded[:height, :width] = array
        return padded


class BrightnessShift(T.Augmentation):
    """Add one random whole number to all values of the image, as openseg.pytorch does."""

    def __init__(self, max_shift):
        """
        Args:
            max_shift (int): the number is drawn from -max_shift to max_shift.

        Raises:
            ValueError: it is negative.
        """
        super().__init__()
        if max_shift < 0:
            raise ValueError(f"max_shift must be 0 or more, but is {max_shift}.")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        shift = np.random.randint(-self.max_shift, self.max_shift + 1)
        return PhotometricTransform(None, shift, None, None, None, False)


class PhotometricDistortion(T.Augmentation):
    """Random brightness, contrast, saturation and hue, each with probability 1/2.

    The steps and ranges of SSD (Liu et al., ECCV 2016), as in mmsegmentation: brightness +-32,
    contrast and saturation times 0.5-1.5, hue +-36 degrees; contrast comes second or last.
    """

    def __init__(self, image_format):
        """
        Args:
            image_format (str): order of the channels, "BGR" or "RGB".

        Raises:
            ValueError: another format, in which these changes have no meaning.
        """
        super().__init__()
        if image_format not in ("BGR", "RGB"):
            raise ValueError(
                f"Photometric distortion needs BGR or RGB images, not {image_format!r}: "
                "turn INPUT.COLOR_AUG_SSD off or change INPUT.FORMAT."
            )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        brightness = self._maybe(np.random.uniform, -_BRIGHTNESS_DELTA, _BRIGHTNESS_DELTA)
        contrast_last = bool(np.random.randint(2))
        contrast = self._maybe(np.random.uniform, *_CONTRAST_RANGE)
        saturation = self._maybe(np.random.uniform, *_SATURATION_RANGE)
        hue = self._maybe(np.random.randint, -_HUE_DELTA, _HUE_DELTA + 1)
        return PhotometricTransform(
            self.image_format, brightness, contrast, saturation, hue, contrast_last
        )

    @staticmethod
    def _maybe(draw, low, high):
        """A random number or, with probability 1/2, None."""
        return draw(low, high) if np.random.randint(2) else None


class PhotometricTransform(Transform):
    """The change of colours that PhotometricDistortion draws. None leaves a step out.

    ``image_format`` is for saturation and hue. Takes and gives uint8 images (H, W, 3); geometry and
    labels stay as they are.
    """

    def __init__(self, image_format, brightness, contrast, saturation, hue, contrast_last):
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3:
            raise ValueError(
                f"Photometric distortion needs uint8 images (H, W, 3), "
                f"but got {img.dtype} {img.shape}."
            )
        img = np.ascontiguousarray(img)
        table = _UNCHANGED
        if self.brightness is not None:
            table = _table(1.0, self.brightness)
        if self.contrast is not None and not self.contrast_last:
            table = _table(self.contrast, 0.0)[table]
        if table is not _UNCHANGED:
            img = cv2.LUT(img, table)
        if self.saturation is not None or self.hue is not None:
            img = self._change_hsv(img)
        if self.contrast is not None and self.contrast_last:
            img = cv2.LUT(img, _table(self.contrast, 0.0))
        return img

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def _change_hsv(self, img: np.ndarray) -> np.ndarray:
        is_bgr = self.image_format == "BGR"
        hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV if is_bgr else cv2.COLOR_RGB2HSV)
        hues, saturations = _UNCHANGED, _UNCHANGED
        if self.hue is not None:
            hues = ((np.arange(256) + self.hue) % _NUM_HUES).astype(np.uint8)
        if self.saturation is not None:
            saturations = _table(self.saturation, 0.0)
        cv2.LUT(hsv, np.stack([hues, saturations, _UNCHANGED], axis=-1)[None], hsv)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR if is_bgr else cv2.COLOR_HSV2RGB)


def _table(factor: float, offset: float) -> np.ndarray:
    """Each uint8 times ``factor`` plus ``offset``, rounded and limited to 0-255."""
    return np.clip(np.rint(np.arange(256) * factor + offset), 0, 255).astype(np.uint8)
