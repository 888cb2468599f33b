"""Convert the images of library users (paths, Pillow images, arrays) to the model's input."""

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from ..data.images import ALL_CHANNELS, to_display_image
from ..utils.errors import MissingFileError, UserError
from .predictor import SemSegPredictor

#: An image for :meth:`Segmentor.predict`.
ImageLike: TypeAlias = str | os.PathLike | Image.Image | np.ndarray

# Pillow's 8-bit modes, which convert to RGB without a change of the value range.
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


def read_input(
    image: ImageLike, predictor: SemSegPredictor, *, any_size: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Read an image for the model and for display, as :meth:`SemSegPredictor.read` does.

    Args:
        image: a path; a Pillow image, which is rotated by its EXIF orientation and loses its alpha
            channel; or an array: RGB uint8 (H, W, 3), or numbers (H, W, C) for a model with C
            channels (INPUT.FORMAT "ALL").
        predictor: the model's predictor.
        any_size: accept images of more than TEST.MAX_MEGAPIXELS.

    Returns:
        The image for the model, and the image for display, uint8 RGB (H, W, 3).

    Raises:
        MissingFileError: the file does not exist.
        UserError: the file cannot be decoded, or the image has another type, shape or dtype, or
            too many pixels.
    """
    if isinstance(image, (str, os.PathLike)):
        path = Path(image).expanduser()
        if not path.exists():
            raise MissingFileError(f"There is no image '{path}' (in the folder {Path.cwd()}).")
        if path.is_dir():
            raise UserError(
                f"'{path}' is a folder, expected an image. For all of its images: "
                "predict(sorted(Path(folder).glob('*.jpg')))."
            )
        return predictor.read(path, any_size=any_size)
    if isinstance(image, Image.Image):
        image = _of_pillow(image)
    if not isinstance(image, np.ndarray):
        raise UserError(_other_type(image))
    if predictor.image_format == ALL_CHANNELS:
        _check_channels(image, predictor.num_channels)
        _check_size(image, None if any_size else predictor.max_megapixels)
        image = image.astype(np.float32)
        return image, to_display_image(image)
    _check_rgb(image)
    _check_size(image, None if any_size else predictor.max_megapixels)
    return image, image


def _of_pillow(image: Image.Image) -> np.ndarray:
    if image.mode not in _EIGHT_BIT_MODES:
        raise UserError(
            f"The Pillow image has the mode '{image.mode}', expected 8 bits per channel. Pass its "
            "path, for which the dataset may give a 'value_range', or scale it to 0..255."
        )
    try:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow decodes only now, and damaged data raises almost anything
        raise UserError(f"The Pillow image cannot be decoded: {error}") from error


def _check_rgb(image: np.ndarray) -> None:
    what = f"The image is an array {image.shape} of {image.dtype}"
    if image.ndim == 2:
        raise UserError(
            f"{what}: greyscale, expected RGB (H, W, 3). Pass np.stack([image] * 3, axis=-1)."
        )
    if image.ndim == 4:
        raise UserError(
            f"{what}, expected one RGB image (H, W, 3). Pass a batch as a list: list(images)."
        )
    if image.ndim != 3 or image.shape[2] != 3:
        hint = ""
        if image.ndim == 3 and image.shape[0] == 3:
            hint = " Its channels come first: pass image.transpose(1, 2, 0)."
        elif image.ndim == 3 and image.shape[2] == 4:
            hint = " Remove the alpha channel with image[..., :3]."
        raise UserError(f"{what}, expected RGB, uint8 (H, W, 3).{hint}")
    if image.dtype != np.uint8:
        hint = " Scale it to 0..255 and pass image.astype(np.uint8)."
        if image.dtype.kind == "f":
            hint = " Convert values from 0 to 1 with (255 * image).round().astype(np.uint8)."
        raise UserError(f"{what}, expected uint8 with values from 0 to 255.{hint}")


def _check_channels(image: np.ndarray, channels: int) -> None:
    is_numbers = image.dtype.kind in "uif"
    if image.ndim != 3 or image.shape[2] != channels or not is_numbers:
        raise UserError(
            f"The image is an array {image.shape} of {image.dtype}, but the model takes "
            f"(H, W, {channels}) numbers from 0 to 255, with the channels of its training images."
        )
    if not np.isfinite(image).all():
        raise UserError("The image holds NaN or infinity. Replace these values.")


def _check_size(image: np.ndarray, max_megapixels: float | None) -> None:
    height, width = image.shape[:2]
    if not (height and width):
        raise UserError(f"The image is empty: an array {image.shape}.")
    megapixels = height * width / 1e6
    if max_megapixels is not None and megapixels > max_megapixels:
        raise UserError(
            f"The image has {width} x {height} pixels, {megapixels:.1f} megapixels: more than "
            f"TEST.MAX_MEGAPIXELS, {max_megapixels:g}. Predict it in tiles with predict(image, "
            "tiles=1024), or load the model with opts=['TEST.MAX_MEGAPIXELS', 200.0]."
        )


def _other_type(image: object) -> str:
    kind = type(image)
    hint = ""
    if kind.__module__.split(".")[0] == "torch":
        hint = " Convert a tensor (3, H, W) with image.permute(1, 2, 0).byte().cpu().numpy()."
    elif isinstance(image, bytes):
        hint = " Open the content of a file with PIL.Image.open(io.BytesIO(image))."
    return (
        f"The image is a {kind.__module__}.{kind.__qualname__}, expected a path, a Pillow image or "
        f"a NumPy array.{hint}"
    )
