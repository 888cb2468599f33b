"""Reads images the way Detectron2 does, with errors that name the file."""

from pathlib import Path

import numpy as np
from PIL import Image

from detectron2.data.detection_utils import read_image as read_detectron2_image

from .errors import DatasetError


def read_image(path: str | Path, image_format: str) -> np.ndarray:
    """Read an image as (H, W, 3), turned upright if its EXIF data says so.

    Args:
        image_format: ``cfg.INPUT.FORMAT``: "BGR" or "RGB" (uint8), or another of Detectron2.

    Raises:
        DatasetError: the file is missing or is no readable image.
    """
    try:
        return read_detectron2_image(str(path), format=image_format)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"Cannot read the image {path}: {error}") from error
