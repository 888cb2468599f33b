"""The labels and images that the preparation of a dataset writes, each one atomically."""

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
_NO_LABEL = ", expected only labels of this dataset. Unpack the official archive again."


class ExistingFileError(DatasetError):
    """A file to write exists with other content.

    Args:
        target: the file.
        difference: a clause that says how it differs.
    """

    def __init__(self, target: Path, difference: str):
        super().__init__(
            f"{target} already exists, but {difference}. Nothing was changed: move it away, or set "
            "--overwrite to replace it."
        )


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A label image of class indices, converted from an official label file.

    Attributes:
        source: the official file.
        target: the file to write: .png with 8 bits or .tif with 16 bits.
        id_map: official value -> class index or ignore label; other values are errors.
        read: a function that reads ``source`` as integers (H, W).
        image: the image of the label, which must have the same size. None: the size is not
            compared, and ``source`` must be an image file.
        short_side: the shorter side in pixels to which larger labels are reduced (nearest
            neighbour). None: labels keep their size.
    """

    source: Path
    target: Path
    id_map: Mapping[int, int]
    read: Callable[[Path], np.ndarray] = read_label
    image: Path | None = None
    short_side: int | None = None

    def check(self, verify: bool) -> None:
        """Raise ExistingFileError if ``target`` has another size.

        With ``verify``, it is also raised if the labels differ.
        """
        _check_size(self.target, reduced_size(_size(self.image or self.source), self.short_side))
        if verify and not np.array_equal(read_label(self.target), self.label()):
            raise ExistingFileError(self.target, "its labels differ from the official ones")

    def label(self) -> np.ndarray:
        """The converted label (H, W), uint8, or uint16 for .tif.

        Raises:
            DatasetError: the official file cannot be read, contains a value that is not in
                ``id_map``, or has another size than its image.
        """
        label = map_values(self.read(self.source), self.id_map, self.source, _NO_LABEL)
        size = label.shape[1], label.shape[0]
        if self.image is not None and _size(self.image) != size:
            raise DatasetError(
                f"The label {self.source} has {_text(size)} pixels, but its image {self.image} has "
                f"{_text(_size(self.image))}. They must have the same size."
            )
        label = label.astype(np.uint16 if self.target.suffix == ".tif" else np.uint8)
        return cv2.resize(
            label, reduced_size(size, self.short_side), interpolation=cv2.INTER_NEAREST
        )

    def content(self) -> bytes:
        """The bytes to write to ``target``; DatasetError as in :meth:`label`."""
        if self.target.suffix == ".tif":
            return _encode(self.label(), format="TIFF", compression="tiff_deflate")
        return _encode(self.label(), format="PNG")


@dataclass(frozen=True)
class ImageFile:
    """An image in the layout of the registered dataset: a relative link, a copy or a new JPEG.

    An image is encoded again as a JPEG if it is reduced, or if its EXIF orientation is not upright:
    the reader would rotate it, but the official labels belong to the stored pixels.

    Attributes:
        source: the official image.
        target: path of the link, copy or JPEG.
        short_side: the shorter side in pixels to which larger images are reduced (bilinear, as in
            other public preparations). None: images keep their size.
        copy: copy images instead of linking them. Images are also copied if links are not
            supported.
        quality: encode every image again as a JPEG of this quality. None: encode only images that
            change.
    """

    source: Path
    target: Path
    short_side: int | None = None
    copy: bool = False
    quality: int | None = None

    def check(self, verify: bool) -> None:
        """Raise ExistingFileError if ``target`` has another size or another ``quality``.

        With ``verify``, it is also raised if the bytes of a copy differ.
        """
        _check_size(self.target, reduced_size(_size(self.source), self.short_side))
        if self.quality is not None:
            example = io.BytesIO(self._jpeg(np.zeros((8, 8, 3), np.uint8)))
            if self.target.is_symlink() or _quantization(self.target) != _quantization(example):
                raise ExistingFileError(self.target, f"it is not a JPEG of quality {self.quality}")
        elif verify and not self._changes() and not filecmp.cmp(self.source, self.target, False):
            raise ExistingFileError(self.target, f"its bytes differ from {self.source}")

    def content(self) -> bytes | None:
        """The bytes of an image that changes, None for others; DatasetError if unreadable."""
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
    """A label and its image; ``image`` is None if the official image is used in its place."""

    label: LabelFile
    image: ImageFile | None = None

    def prepare(self, overwrite: bool = False, verify: bool = False) -> bool:
        """Write the files that do not exist yet.

        Nothing is written for a broken pair. Existing files are checked.

        Args:
            overwrite: replace existing files.
            verify: compare existing files with what would be written.

        Returns:
            Whether a file was written.

        Raises:
            ExistingFileError: a file exists with other content.
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
                    f"Cannot write {file.target}: {error.strerror or error}. The files written "
                    "before are complete. Correct this, and run the command again."
                ) from error
        return bool(new)


def reduced_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(width, height), reduced so that the shorter side is at most ``short_side``."""
    shorter = min(size)
    if short_side is None or shorter <= short_side:
        return size
    width, height = (round(length / shorter * short_side) for length in size)
    return width, height


def link(source: Path, target: Path) -> bool:
    """Create a relative link, atomically; returns False if links are not supported."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        # Both paths are resolved, because ".." in a link starts at the link's real folder.
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
    """(width, height) of the stored image, without decoding its pixels."""
    return open_image(path, lambda image: image.size)


def _quantization(file) -> dict | None:
    """The quantisation tables of a JPEG, which depend on its quality."""
    return open_image(file, lambda image: getattr(image, "quantization", None))


def _check_size(target: Path, expected: tuple[int, int]) -> None:
    size = _size(target)
    if size != expected:
        raise ExistingFileError(target, f"it has {_text(size)}, not {_text(expected)} pixels")


def _encode(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)
    return buffer.getvalue()


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
