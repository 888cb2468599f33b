"""The files that preparing a dataset makes: labels, images and links, each whole or not at all.

Each kind has the same four methods, so that preparation_run.py can treat them alike:
``is_present(verify)``, ``write()``, ``estimated_bytes()`` and the attribute ``target``.
"""

import filecmp
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ..utils.errors import UserError
from ..utils.files import atomic_write
from .errors import DatasetError
from .labels import read_label
from .preparation_sources import map_values

_EXIF_ORIENTATION = 0x0112
_JPEG_QUALITY = 95
_LABEL_MODES = {".png": ("L", "P"), ".tif": ("I;16", "I;16B")}


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A label image of class indices, made from an official label file.

    Attributes:
        source: the official file.
        target: the file to make: .png with 8 bits or .tif with 16 bits.
        table: what each official value becomes, of ``preparation_sources.label_table``.
        read: reads ``source`` as integers (H, W).
        image: the image this is the label of; the label must have its size. None: not looked at
            (``source`` must be an image itself then).
        short_side: larger labels are reduced (nearest neighbour) until their shorter side has
            this many pixels. None: as they are.
    """

    source: Path
    target: Path
    table: np.ndarray
    read: Callable[[Path], np.ndarray] = read_label
    image: Path | None = None
    short_side: int | None = None

    def is_present(self, verify: bool = False) -> bool:
        """Whether ``target`` is there and right.

        Its type and size are looked at, and with ``verify`` all its pixels.

        Raises:
            DatasetError: something else stands there.
        """
        if not os.path.lexists(self.target):
            return False
        mode, size = _header(self.target)
        if mode not in _LABEL_MODES[self.target.suffix]:
            raise _differs(self.target, f"it is an image of mode {mode}")
        expected = reduced_size(_header(self.image or self.source)[1], self.short_side)
        if size != expected:
            raise _differs(self.target, f"it is {_text(size)}, not {_text(expected)} pixels")
        if verify and not np.array_equal(read_label(self.target), self.content()):
            raise _differs(self.target, "its labels differ from those of the official file")
        return True

    def content(self) -> np.ndarray:
        """The label (H, W), uint8 or uint16.

        Raises:
            DatasetError: the official file cannot be read, holds other values than it may, or
                has not the size of its image.
        """
        label = map_values(self.read(self.source), self.table, self.source)
        size = label.shape[1], label.shape[0]
        if self.image is not None and _header(self.image)[1] != size:
            raise DatasetError(
                f"The label {self.source} is {_text(size)} pixels, but its image {self.image} is "
                f"{_text(_header(self.image)[1])}. They must have the same size."
            )
        reduced = reduced_size(size, self.short_side)
        if reduced != size:
            label = cv2.resize(label, reduced, interpolation=cv2.INTER_NEAREST)
        return label

    def write(self) -> None:
        """Make ``target``; the errors are those of :meth:`content`."""
        if self.source == self.target:
            return
        _write_bytes(self.target, self._encoded())

    def estimated_bytes(self) -> int:
        """How large ``target`` will be."""
        return len(self._encoded())

    def _encoded(self) -> bytes:
        if self.target.suffix == ".png":
            return _encode(self.content(), format="PNG")
        return _encode(self.content().astype(np.uint16), format="TIFF", compression="tiff_deflate")


@dataclass(frozen=True)
class ImageFile:
    """An image where the registered layout wants it: a relative link if it may stay as it is.

    It is copied where links cannot be made, and written anew where it has to change: if it is to
    be reduced, or if its EXIF data would have it turned by the reader (labels lie on the pixels
    as they are stored).

    Attributes:
        source: the official image.
        target: where it shall be. May be ``source`` itself: then it is only looked at.
        short_side: larger images are reduced (bilinear, as public preparations do) until their
            shorter side has this many pixels. None: as they are.
        copy: copy rather than link.
    """

    source: Path
    target: Path
    short_side: int | None = None
    copy: bool = False

    def is_present(self, verify: bool = False) -> bool:
        """Whether ``target`` is there and has the right size; with ``verify``, the same bytes.

        Raises:
            DatasetError: ``source`` cannot be read, or something else stands at ``target``.
        """
        if not os.path.lexists(self.target):
            return False
        size, expected = _header(self.target)[1], self._size()
        if size != expected:
            raise _differs(self.target, f"it is {_text(size)}, not {_text(expected)} pixels")
        is_same = not verify or self._changes() or filecmp.cmp(self.source, self.target, False)
        if not is_same:
            raise _differs(self.target, f"its bytes are not those of {self.source}")
        return True

    def write(self) -> None:
        """Make ``target``; DatasetError if ``source`` cannot be read."""
        if self.source == self.target:
            return
        if self._changes():
            _write_bytes(self.target, self._encoded())
        elif self.copy or not _link(self.source, self.target):
            _header(self.source)
            with open(self.source, "rb") as source, atomic_write(self.target, "wb") as target:
                shutil.copyfileobj(source, target)

    def estimated_bytes(self) -> int:
        """How large ``target`` will be; a link counts nothing."""
        if self._changes():
            return len(self._encoded())
        return self.source.stat().st_size if self.copy else 0

    def _size(self) -> tuple[int, int]:
        return reduced_size(_header(self.source)[1], self.short_side)

    def _changes(self) -> bool:
        return self._size() != _header(self.source)[1] or _is_turned(self.source)

    def _encoded(self) -> bytes:
        pixels = _look(self.source, lambda image: np.asarray(image.convert("RGB")))
        size = self._size()
        if size != (pixels.shape[1], pixels.shape[0]):
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        return _encode(pixels, format="JPEG", quality=_JPEG_QUALITY)


@dataclass(frozen=True)
class FolderLink:
    """A folder of images that stays where it was unpacked, linked to where it is looked for.

    Attributes:
        source: the folder; it need not be there.
        target: where it is looked for. Whatever stands there is left alone.
    """

    source: Path
    target: Path

    def is_present(self, verify: bool = False) -> bool:
        """Whether something stands at ``target``."""
        return self.target.exists()

    def write(self) -> None:
        """Make the link.

        Raises:
            UserError: links cannot be made here.
        """
        if not _link(self.source, self.target):
            raise UserError(
                f"Cannot link {self.target} to {self.source} here: move or copy the folder."
            )

    def estimated_bytes(self) -> int:
        """A link counts nothing."""
        return 0


def reduced_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(width, height) reduced so that the shorter one is ``short_side``, if it is larger."""
    shorter = min(size)
    if short_side is None or shorter <= short_side:
        return size
    width, height = (round(length / shorter * short_side) for length in size)
    return width, height


def _look(path: Path, see: Callable):
    """What ``see`` gives for the opened image; DatasetError if it cannot be read."""
    try:
        with Image.open(path) as image:
            return see(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"Cannot read the image {path}: {error}") from error


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    """Mode and (width, height) of an image, without reading its pixels."""
    return _look(path, lambda image: (image.mode, image.size))


def _is_turned(path: Path) -> bool:
    return _look(path, lambda image: image.getexif().get(_EXIF_ORIENTATION, 1) != 1)


def _encode(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)
    return buffer.getvalue()


def _write_bytes(target: Path, content: bytes) -> None:
    with atomic_write(target, "wb") as file:
        file.write(content)


def _link(source: Path, target: Path) -> bool:
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


def _differs(target: Path, how: str) -> DatasetError:
    return DatasetError(
        f"{target} is there already, but {how}. Nothing was changed: move it away, or give "
        "--overwrite to have it written anew."
    )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
