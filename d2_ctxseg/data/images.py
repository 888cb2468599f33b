"""Reads image files, for the model and for display.

Images of 8 bits are read as Detectron2 reads them. Plain JPEG and PNG files are decoded by OpenCV,
which is faster than Pillow and gives the same pixels. Detectron2 cannot read other images (it clips
them to white); these are read with OpenCV or NumPy.
"""

import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from detectron2.data.detection_utils import read_image as read_detectron2_image

from ..utils.errors import UserError, counted
from .errors import DatasetError

#: The INPUT.FORMAT that takes all channels of the files, in their order there.
ALL_CHANNELS = "ALL"

_COLOR_FORMATS = ("BGR", "RGB")
# The limit of Pillow.
MOST_MEGAPIXELS = 2 * Image.MAX_IMAGE_PIXELS // 10**6
_EXIF_ORIENTATION = 274
# The last bytes of complete files.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
# The inverse of each orientation of the EXIF standard, for arrays (H, W, ...).
_UPRIGHT = {
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: lambda array: np.rot90(array),
}


def read_image(
    path: str | Path, image_format: str, value_range: Sequence[float] | None = None
) -> np.ndarray:
    """Read an image for the model, rotated upright according to its EXIF data.

    Args:
        path: a file of Pillow's or OpenCV's formats, or a NumPy array (H, W) or (H, W, C) in .npy.
        image_format: ``cfg.INPUT.FORMAT``: "BGR" or "RGB", "ALL", or another of Detectron2.
        value_range: the range (low, high) of the values in files with more than 8 bits, which is
            mapped to 0 to 255. None: such files are refused. 8-bit files are not scaled.

    Returns:
        (H, W, C). "BGR" and "RGB": uint8 with 3 channels, grey ones repeated. "ALL": float32 with
        the file's channels in the file's order, not limited to 0..255.

    Raises:
        DatasetError: the file is missing or is no readable image, has more than 8 bits and no
            ``value_range``, holds NaN or infinity, or has channels that "BGR" and "RGB" would drop.
    """
    if image_format in _COLOR_FORMATS:
        pixels = read_common(path, image_format)
        if pixels is not None:
            return pixels
    mode = _eight_bit_mode(path)
    if mode is None:
        pixels = _scaled(_read_array(path), value_range, path)
        return pixels if image_format == ALL_CHANNELS else _as_color(pixels, image_format, path)
    if image_format != ALL_CHANNELS:
        return _read_eight_bit(path, image_format)
    # The values of palette images and of single bits are not intensities.
    pixels = _read_eight_bit(path, {"P": "RGB", "PA": "RGBA", "1": "L"}.get(mode))
    return np.atleast_3d(pixels).astype(np.float32)


def read_display_image(path: str | Path, value_range: Sequence[float] | None = None) -> np.ndarray:
    """Read any image for display: uint8 RGB (H, W, 3), the first three of more channels.

    The arguments and errors are those of :func:`read_image`.
    """
    if _eight_bit_mode(path) is not None:
        return _read_eight_bit(path, "RGB")
    return to_display_image(_scaled(_read_array(path), value_range, path))


def to_display_image(pixels: np.ndarray) -> np.ndarray:
    """The first three channels (or the first, as grey) of values (H, W, C) as uint8 (H, W, 3)."""
    return _to_uint8(pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, 2))


def check_megapixels(path: str | Path, most: float) -> None:
    """Refuse an image that is too large to be predicted, without decoding it.

    Args:
        path: path of an image; files in formats that Pillow does not know are not checked.
        most: ``cfg.TEST.MAX_MEGAPIXELS``.

    Raises:
        DatasetError: the size in the file's header is larger.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes that are refused below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise DatasetError(
            f"{path} has more than {MOST_MEGAPIXELS} megapixels, which is too large. Make it "
            "smaller."
        ) from error
    except Exception:  # the reader of the image reports the error
        return
    megapixels = width * height / 1e6
    if megapixels > most:
        raise DatasetError(
            f"{path} has {width} x {height} pixels, {megapixels:.1f} megapixels, more than "
            f"TEST.MAX_MEGAPIXELS, {most:g}. Make it smaller, or raise the limit: --opts "
            f"TEST.MAX_MEGAPIXELS {math.ceil(megapixels)}.0"
        )


def check_channels(cfg) -> None:
    """Raise UserError if INPUT.FORMAT and the normalisation differ in their channels."""
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    if len(mean) != len(std):
        raise UserError(
            f"MODEL.PIXEL_MEAN has {counted(len(mean), 'value')} and MODEL.PIXEL_STD {len(std)}: "
            "give one for each channel of the images."
        )
    image_format = cfg.INPUT.FORMAT
    if image_format in _COLOR_FORMATS and len(mean) != 3:
        raise UserError(
            f"INPUT.FORMAT '{image_format}' has 3 channels, but MODEL.PIXEL_MEAN has "
            f"{counted(len(mean), 'value')}. For images with other channels set INPUT.FORMAT to "
            f"'{ALL_CHANNELS}'."
        )
    changes = [key for key in ("COLOR_AUG_SSD", "BRIGHTNESS_SHIFT") if cfg.INPUT[key]]
    if image_format not in _COLOR_FORMATS and changes:
        raise UserError(
            f"INPUT.{changes[0]} changes 8-bit colours, but INPUT.FORMAT is '{image_format}'. Set "
            f"INPUT.{changes[0]} to {type(cfg.INPUT[changes[0]])()}."
        )


def open_image(path, see: Callable, what: str = "image"):
    """The result of ``see`` for an image opened by Pillow.

    Raises:
        DatasetError: the image cannot be read.
    """
    try:
        with Image.open(path) as image:
            return see(image)
    except DatasetError:
        raise
    except Exception as error:  # damaged data makes the decoders raise almost anything
        raise DatasetError(f"Cannot read the {what} {path}: {error}") from error


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 to 8; 1: upright."""
    try:
        number = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # of many types, for broken EXIF data; the pixels can be read nevertheless
        return 1
    return number if number in _UPRIGHT else 1


def orientation_of(path: str | Path) -> int:
    """The :func:`orientation` of a file; 1 for a file that Pillow does not know."""
    try:
        return open_image(path, orientation)
    except DatasetError:
        return 1


def upright(array: np.ndarray, number: int) -> np.ndarray:
    """Rotate an array (H, W, ...) of stored pixels upright according to its orientation."""
    return np.ascontiguousarray(_UPRIGHT[number](array)) if number in _UPRIGHT else array


def read_common(path: str | Path, image_format: str) -> np.ndarray | None:
    """Decode a plain JPEG or PNG file of 8 bits with OpenCV. The pixels are those of Pillow.

    OpenCV decodes truncated files without an error, so the end of the file is checked. Neither
    library detects most wrong bytes within JPEG data; OpenCV detects fewer than Pillow.

    Args:
        path: any file.
        image_format: "RGB" or "BGR" for a file with colours, "L" for a file with one channel.

    Returns:
        Upright pixels, uint8, (H, W, 3) or for "L" (H, W). None for every other file, for example
        one with a palette, transparency or 16 bits, and for one that cannot be decoded.
    """
    mode = "L" if image_format == "L" else "RGB"
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.mode != mode or not data.endswith(_ENDS.get(image.format, b"unknown")):
                return None
            if image.format == "PNG" and not _is_plain_png(image, data):
                return None
            turn = 1 if image.format == "PNG" else orientation(image)
        pixels = _decode(np.frombuffer(data, np.uint8), image_format)
    except Exception:  # decoders raise almost anything for damaged data
        return None
    return pixels if pixels is None else upright(pixels, turn)


def _decode(encoded: np.ndarray, image_format: str) -> np.ndarray | None:
    flags = {"L": cv2.IMREAD_GRAYSCALE, "BGR": cv2.IMREAD_COLOR}
    flags["RGB"] = getattr(cv2, "IMREAD_COLOR_RGB", None)  # from OpenCV 4.11 on
    flag = flags[image_format]
    if flag is None:
        return cv2.cvtColor(_decode(encoded, "BGR"), cv2.COLOR_BGR2RGB)
    return cv2.imdecode(encoded, flag | cv2.IMREAD_IGNORE_ORIENTATION)


def _is_plain_png(image: Image.Image, data: bytes) -> bool:
    """Whether a PNG has 8 bits, and no transparency, frames or EXIF data."""
    is_eight_bit = all(tile[3] == image.mode for tile in image.tile)
    special = "transparency" in image.info or getattr(image, "is_animated", False)
    # EXIF data may follow the pixels; Pillow would decode them to find it.
    return is_eight_bit and not special and b"eXIf" not in data


def _eight_bit_mode(path: str | Path) -> str | None:
    """Pillow's mode of an image of at most 8 bits per channel; None for all others."""
    if Path(path).suffix.lower() == ".npy":
        return None
    try:
        with Image.open(path) as image:
            # Pillow silently reduces 16-bit colours to 8 bits; the mode of its decoder is 16-bit.
            is_deep = image.mode[0] in "IF" or any(";16" in str(tile) for tile in image.tile)
            return None if is_deep else image.mode
    except Image.UnidentifiedImageError:
        # Formats that only OpenCV reads, such as floating-point colours.
        return None
    except Exception as error:
        raise DatasetError(f"Cannot read the image {path}: {error}") from error


def _read_eight_bit(path: str | Path, image_format: str | None) -> np.ndarray:
    try:
        return read_detectron2_image(str(path), format=image_format)
    except Exception as error:
        raise DatasetError(f"Cannot read the image {path}: {error}") from error


def _read_array(path: str | Path) -> np.ndarray:
    """The file's values (H, W, C), upright, colours as RGB."""
    try:
        if Path(path).suffix.lower() == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            # For every image, OpenCV would warn of every unknown tag of a GeoTIFF.
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
            array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, ValueError, EOFError, cv2.error) as error:
        raise DatasetError(f"Cannot read the image {path}: {error}") from error
    if array is None:
        raise DatasetError(f"Cannot read the image {path}: neither Pillow nor OpenCV knows it.")
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif" or not array.size:
        raise DatasetError(
            f"The image {path} is an array {array.shape} of {array.dtype}, expected numbers "
            "(height, width) or (height, width, channels)."
        )
    array = np.atleast_3d(array)
    if Path(path).suffix.lower() == ".npy":
        return array
    if array.shape[2] >= 3:  # OpenCV's order
        array = np.concatenate([array[..., 2::-1], array[..., 3:]], axis=2)
    return upright(array, orientation_of(path))


def _scaled(array: np.ndarray, value_range, path) -> np.ndarray:
    """Values of any type as float32, ``value_range`` as 0..255; uint8 keeps its values."""
    if array.dtype == np.uint8:
        return array.astype(np.float32)
    if value_range is None:
        raise DatasetError(
            f"The image {path} has values of type {array.dtype}, not of 8 bits, and their range is "
            "not known. State it in the dataset's YAML, such as 'value_range: [0, 65535]'; it is "
            "then mapped to 0 to 255."
        )
    low, high = value_range
    scaled = (array.astype(np.float32) - low) * (255 / (high - low))
    if not np.isfinite(scaled).all():
        raise DatasetError(f"The image {path} holds NaN or infinity. Replace these values.")
    return scaled


def _as_color(pixels: np.ndarray, image_format: str, path) -> np.ndarray:
    channels = pixels.shape[2]
    if image_format not in _COLOR_FORMATS or channels not in (1, 3):
        raise DatasetError(
            f"The image {path} has {counted(channels, 'channel')}, which INPUT.FORMAT "
            f"'{image_format}' does not support. Set INPUT.FORMAT to '{ALL_CHANNELS}', and give "
            f"MODEL.PIXEL_MEAN and PIXEL_STD {counted(channels, 'value')}."
        )
    rgb = _to_uint8(pixels).repeat(3 // channels, axis=2)
    return rgb if image_format == "RGB" else rgb[..., ::-1]


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
