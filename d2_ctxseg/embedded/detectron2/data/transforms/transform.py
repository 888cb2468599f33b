"""The transform that fvcore does not have: resizing by PIL."""

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import Transform
from PIL import Image

__all__ = ["ResizeTransform"]

_NEAREST, _BILINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR


class ResizeTransform(Transform):
    """Resizes to a fixed size, bilinearly.

    uint8 is resized by PIL, which smooths when it makes an image smaller; all else by
    ``torch.nn.functional.interpolate``, which does not. Label maps are never interpolated.

    Args:
        h, w: the size that images must have.
        new_h, new_w: the size that they get.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int):
        self.h, self.w = h, w
        self.new_h, self.new_w = new_h, new_w

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize an image.

        Args:
            img: (h, w), (h, w, C) or (h, w, C, N); uint8 or floating point.
            interp: PIL's nearest or bilinear resampling; bilinear by default.

        Returns:
            The same dtype and number of dimensions, size (new_h, new_w).
        """
        assert img.shape[:2] == (self.h, self.w), (
            f"This transform resizes images of size {(self.h, self.w)}, got {img.shape[:2]}"
        )
        resize = self._resize_by_pil if img.dtype == np.uint8 else self._resize_by_torch
        return resize(img, _BILINEAR if interp is None else interp)

    def _resize_by_pil(self, img: np.ndarray, interp: int) -> np.ndarray:
        one_channel = img.ndim == 3 and img.shape[2] == 1
        pil_image = Image.fromarray(img[:, :, 0] if one_channel else img)
        resized = np.asarray(pil_image.resize((self.new_w, self.new_h), interp))
        return resized[:, :, np.newaxis] if one_channel else resized

    def _resize_by_torch(self, img: np.ndarray, interp: int) -> np.ndarray:
        options = {_NEAREST: {"mode": "nearest"}, _BILINEAR: {"mode": "bilinear"}}[interp]
        # torch has no negative strides, which flipped images have.
        tensor = torch.from_numpy(np.ascontiguousarray(img))
        channels_first = tensor.reshape(self.h, self.w, -1).permute(2, 0, 1)[None]
        resized = F.interpolate(channels_first, (self.new_h, self.new_w), **options)
        new_shape = (self.new_h, self.new_w, *img.shape[2:])
        return resized[0].permute(1, 2, 0).reshape(new_shape).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale points (N, 2), each (x, y), in place."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a label map (h, w) to the nearest labels."""
        return self.apply_image(segmentation, interp=_NEAREST)
