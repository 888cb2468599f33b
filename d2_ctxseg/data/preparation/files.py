"""The files that preparing a dataset makes: labels and images, each whole or not at all."""

import filecmp
import io
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...utils.errors import UserError
from ...utils.files import atomic_write
from ..errors import DatasetError
from ..images import open_image, orientation_of
from ..labels import map_values, read_label

_JPEG_QUALITY = 95
_NO_LABEL = "which are no labels of this dataset. Is it of the official archive? Unpack it again."


class ExistingFileError(DatasetError):
    """Something else stands where a file is to be made."""

    def __init__(self, target: Path, how: str):
        super().__init__(
            f"{target} is there already, but {how}. Nothing was changed: move it away, or give "
            "--overwrite to replace it."
        )


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A label image of class indices, made from an official label file.

    Attributes:
        source: the official file.
        target: the file to make: .png with 8 bits or .tif with 16 bits.
        id_map: official value -> class index or ignore label; no other value may occur.
        read: reads ``source`` as integers (H, W).
        image: the image this is the label of; the label must have its size. None: not looked at
            (``source`` must be an image itself then).
        short_side: larger labels are reduced (nearest neighbour) until their shorter side has
            this many pixels. None: as they are.
    """

    source: Path
    target: Path
    id_map: Mapping[int, int]
    read: Callable[[Path], np.ndarray] = read_label
    image: Path | None = None
    short_side: int | None = None

    def check(self, verify: bool) -> None:
        """Raise ExistingFileError if ``target`` has another size or, with ``verify``, pixels."""
        _check_size(self.target, reduced_size(_size(self.image or self.source), self.short_side))
        if verify and not np.array_equal(read_label(self.target), self.label()):
            raise ExistingFileError(self.target, "its labels differ from the official ones")

    def label(self) -> np.ndarray:
        """The label (H, W), uint8, or uint16 for .tif.

        Raises:
            DatasetError: the official file cannot be read, holds other values than it may, or
                has not the size of its image.
        """
        label = map_values(self.read(self.source), self.id_map, self.source, _NO_LABEL)
        size = label.shape[1], label.shape[0]
        if self.image is not None and _size(self.image) != size:
            raise DatasetError(
                f"The label {self.source} is {_text(size)} pixels, but its image {self.image} is "
                f"{_text(_size(self.image))}. They must have the same size."
            )
        label = label.astype(np.uint16 if self.target.suffix == ".tif" else np.uint8)
        return cv2.resize(
            label, reduced_size(size, self.short_side), interpolation=cv2.INTER_NEAREST
        )

    def content(self) -> bytes:
        """The bytes of ``target``; the errors are those of :meth:`label`."""
        if self.target.suffix == ".tif":
            return _encode(self.label(), format="TIFF", compression="tiff_deflate")
        return _encode(self.label(), format="PNG")


@dataclass(frozen=True)
class ImageFile:
    """An image where the registered layout wants it: a relative link if it may stay as it is.

    It is encoded again as a JPEG where it has to change: if it is to be reduced, or if the reader
    would turn it as its EXIF data say (official labels lie on the pixels as they are stored).

    Attributes:
        source: the official image.
        target: path of the link or copy.
        short_side: larger images are reduced (bilinear, as public preparations do) until their
            shorter side has this many pixels. None: as they are.
        copy: copy rather than link. Where links cannot be made, images are copied in any case.
        quality: encode every image again, as a JPEG of this quality. None: only those that change.
    """

    source: Path
    target: Path
    short_side: int | None = None
    copy: bool = False
    quality: int | None = None

    def check(self, verify: bool) -> None:
        """Raise ExistingFileError if ``target`` has another size, or is not of ``quality``.

        With ``verify`` also if a copy has other bytes.
        """
        _check_size(self.target, reduced_size(_size(self.source), self.short_side))
        if self.quality is not None:
            example = io.BytesIO(self._jpeg(np.zeros((8, 8, 3), np.uint8)))
            if self.target.is_symlink() or _quantization(self.target) != _quantization(example):
                raise ExistingFileError(self.target, f"it is no JPEG of quality {self.quality}")
        elif verify and not self._changes() and not filecmp.cmp(self.source, self.target, False):
            raise ExistingFileError(self.target, f"its bytes are not those of {self.source}")

    def content(self) -> bytes | None:
        """The bytes of an image that changes, None of others; DatasetError if it is unreadable."""
        if not self._changes():
            return None
        pixels = open_image(self.source, lambda image: np.asarray(image.convert("RGB")))
        size = reduced_size((pixels.shape[1], pixels.shape[0]), self.short_side)
        return self._jpeg(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR))

    def _changes(self) -> bool:
        size = _size(self.source)
        is_reduced = reduced_size(size, self.short_side) != size
        return self.quality is not None or is_reduced or orientation_of(self.source) != 1

    def _jpeg(self, pixels: np.ndarray) -> bytes:
        return _encode(pixels, format="JPEG", quality=self.quality or _JPEG_QUALITY)


@dataclass(frozen=True)
class Pair:
    """A label to make and, unless it is used where it is, its image to put in place."""

    label: LabelFile
    image: ImageFile | None = None

    def prepare(self, overwrite: bool = False, verify: bool = False) -> bool:
        """Make what is not there yet; gives whether anything was written.

        Of a broken pair nothing is written. A file whose source stands in its place is checked.

        Args:
            overwrite: write also what is there already.
            verify: compare what is there already with what would be written.

        Raises:
            ExistingFileError: something else stands where a file is to be made.
            DatasetError: an official file is broken.
            UserError: a file cannot be written (disk full, no permission).
        """
        new = []
        for file in filter(None, (self.image, self.label)):
            if file.source == file.target or (not overwrite and os.path.lexists(file.target)):
                file.check(verify)
            else:
                new.append((file, file.content()))
        for file, content in new:
            try:
                _write(file, content)
            except OSError as error:
                raise UserError(
                    f"Cannot write {file.target}: {error.strerror or error}. What was written "
                    "before is complete; start again when there is space and permission."
                ) from error
        return bool(new)


def reduced_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(width, height) reduced so that the shorter one is ``short_side``, if it is larger."""
    shorter = min(size)
    if short_side is None or shorter <= short_side:
        return size
    width, height = (round(length / shorter * short_side) for length in size)
    return width, height


def link(source: Path, target: Path) -> bool:
    """Make a relative link; False if the system, or the file system, has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        # Both resolved: a link's ".." starts at the folder that it really lies in.
        part.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()))
        os.replace(part, target)
    except (OSError, ValueError, NotImplementedError):
        part.unlink(missing_ok=True)
        return False
    return True


def _write(file: LabelFile | ImageFile, content: bytes | None) -> None:
    if content is None and not file.copy and link(file.source, file.target):
        return
    with atomic_write(file.target, "wb") as target:
        if content is not None:
            target.write(content)
        else:
            with open(file.source, "rb") as source:
                shutil.copyfileobj(source, target)


def _size(path: Path) -> tuple[int, int]:
    """(width, height) of an image as it is stored, without reading its pixels."""
    return open_image(path, lambda image: image.size)


def _quantization(file) -> dict | None:
    """The tables of a JPEG, which tell the quality it was written with."""
    return open_image(file, lambda image: getattr(image, "quantization", None))


def _check_size(target: Path, expected: tuple[int, int]) -> None:
    size = _size(target)
    if size != expected:
        raise ExistingFileError(target, f"it is {_text(size)}, not {_text(expected)} pixels")


def _encode(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)
    return buffer.getvalue()


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
