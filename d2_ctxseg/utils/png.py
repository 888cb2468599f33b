"""PNG files."""

import os

import cv2
import numpy as np

from .files import atomic_write


def encode_png(image: np.ndarray, compression: int = 1) -> bytes:
    """Encode an image as PNG.

    Args:
        image: (H, W) uint8 or uint16, or RGB (H, W, 3) uint8.
        compression: 0 to 9. 9 is slow and halves the size of coloured label maps.

    Returns:
        The content of the PNG file.
    """
    in_opencv_order = image[:, :, ::-1] if image.ndim == 3 else image  # BGR
    options = [cv2.IMWRITE_PNG_COMPRESSION, compression]
    return cv2.imencode(".png", in_opencv_order, options)[1].tobytes()


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image in the formats of :func:`encode_png` to a PNG file, atomically."""
    with atomic_write(path, "wb") as file:
        file.write(encode_png(image))
