"""Open uploaded images safely."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from detectron2.data.detection_utils import read_image

from ...utils.errors import UserError

# Formats whose decoders are part of Pillow; EPS, for one, would be handed to another program.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
# A thinner image has no pixel left once it is resized as the models ask.
SHORTEST_SIDE, LONGEST_RATIO = 16, 20


def read_upload(path: str | Path, max_megapixels: float) -> np.ndarray:
    """Read an uploaded image, rotated by its EXIF orientation.

    Its kind and size are read from its header; an image that is too large is not decoded.

    Args:
        path: a file of any kind.
        max_megapixels: the size limit of an image.

    Returns:
        uint8 RGB array (H, W, 3).

    Raises:
        UserError: the file is no image, or the image is damaged, too large, or too thin.
    """
    name = Path(path).name
    width, height = read_size(path, max_megapixels)
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise _too_large(
            name, f"is {width} x {height} pixels, {megapixels:.1f} megapixels", max_megapixels
        )
    short, long = sorted((width, height))
    if short < SHORTEST_SIDE or long > LONGEST_RATIO * short:
        raise UserError(
            f"{name} is {width} x {height} pixels. Each side must have at least {SHORTEST_SIDE} "
            f"pixels, and the longer side at most {LONGEST_RATIO} times the pixels of the shorter. "
            "Choose another image or crop this one."
        )
    try:
        return read_image(str(path), format="RGB")
    except Exception as error:  # damaged data makes the decoders raise almost anything
        raise UserError(
            f"{name} is damaged: only a part of it can be read ({error}). Save or copy it again."
        ) from error


def read_size(path: str | Path, max_megapixels: float) -> tuple[int, int]:
    """(width, height) as an image's header says; raises UserError as :func:`read_upload`."""
    name = Path(path).name
    try:
        with warnings.catch_warnings():
            # Warns of sizes that are refused anyway.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                return image.size
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name} is not an image that can be read here. Choose a {', '.join(FORMATS[:-1])} or "
            f"{FORMATS[-1]} file."
        ) from error
    except Image.DecompressionBombError as error:
        limit = f"has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels"
        raise _too_large(name, limit, max_megapixels) from error
    except Exception as error:
        raise UserError(f"{name} cannot be opened as an image: {error}") from error


def _too_large(name: str, size: str, max_megapixels: float) -> UserError:
    return UserError(
        f"{name} {size}: that is too large. This page takes images of at most "
        f"{max_megapixels:g} megapixels: make it smaller, or start the page with a larger "
        "--max-megapixels."
    )
