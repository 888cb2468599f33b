"""Reading images."""

import numpy as np
from PIL import Image

from detectron2.utils.file_io import PathManager

__all__ = ["convert_image_to_rgb", "read_image"]

# The tag "Orientation" of https://www.exiv2.org/tags.html, and what undoes each of its values.
_EXIF_ORIENTATION = 274
_UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """A PIL image as an array.

    Args:
        image: of any mode.
        format: a PIL mode ("RGB", "L", ...), "BGR", or None to keep the image's own mode.

    Returns:
        (H, W, C); also (H, W, 1) for "L". Without a format, as numpy reads the image.
    """
    if format is None:
        return np.asarray(image)
    array = np.asarray(image.convert("RGB" if format == "BGR" else format))
    if format == "L":
        return array[:, :, np.newaxis]
    return array[:, :, ::-1] if format == "BGR" else array


def convert_image_to_rgb(image: np.ndarray, format: str) -> np.ndarray:
    """An image of a format of :func:`convert_PIL_to_numpy` as RGB.

    Args:
        image: (H, W, C), values in 0..255.
        format: the format it has.

    Returns:
        (H, W, 3), uint8; "BGR" keeps the dtype it has.
    """
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    image = image.astype(np.uint8)
    if format == "RGB":
        return image
    if format == "L":
        return np.repeat(image[:, :, :1], 3, axis=2)
    height, width = image.shape[:2]
    return np.asarray(Image.frombytes(format, (width, height), image.tobytes()).convert("RGB"))


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file, upright if it says how it was held (EXIF orientation).

    Args:
        file_name: a path that iopath's PathManager understands.
        format: see :func:`convert_PIL_to_numpy`.

    Returns:
        (H, W, C), uint8 for the usual modes.
    """
    with PathManager.open(file_name, "rb") as file:
        image = Image.open(file)
        return convert_PIL_to_numpy(_turn_upright(image), format)


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:
        # Broken EXIF data raises almost anything; the pixels are fine nevertheless.
        return image
    undo = _UNDO_ORIENTATION.get(orientation)
    return image if undo is None else image.transpose(undo)
