"""Confusion counts of each image of an evaluation, for the comparison of two runs."""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..utils.errors import MissingFileError, UserError
from ..utils.files import atomic_write
from .confusion import class_counts

FILE_NAME = "image_counts.npz"
# The rows of the counts.
CORRECT, TRUE, PREDICTED = range(3)


def image_counts(confusion: np.ndarray) -> np.ndarray:
    """Numbers of correct, true and predicted pixels of each class in one image.

    Pixels whose ground truth or prediction is "ignored" do not count.

    Args:
        confusion: (K + 1, K + 1), rows predicted, columns true, the last of each is "ignored".

    Returns:
        (3, K) uint32.
    """
    return np.stack(class_counts(confusion[:-1, :-1])).astype(np.uint32)


@dataclass(frozen=True)
class ImageCounts:
    """The counts of all labelled images of an evaluation.

    Attributes:
        file_names: names of the N images, relative to their common folder, so that they are the
            same on another machine.
        class_names: K names.
        counts: (N, 3, K) uint32, see :func:`image_counts`.
    """

    file_names: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def of_images(
        cls, file_names: Sequence[str], class_names: Sequence[str], counts: Sequence[np.ndarray]
    ) -> "ImageCounts":
        """From the paths and the counts (3, K) of the images."""
        array = np.array(counts, dtype=np.uint32).reshape(-1, 3, len(class_names))
        return cls(_below_common_folder(file_names), tuple(class_names), array)

    def write(self, path: str | os.PathLike) -> None:
        """Write a compressed ``.npz`` file atomically; it has a few hundred bytes per image."""
        with atomic_write(path, "wb") as file:
            np.savez_compressed(
                file,
                file_names=np.array(self.file_names, dtype=np.str_),
                class_names=np.array(self.class_names, dtype=np.str_),
                counts=self.counts,
            )

    @classmethod
    def read(cls, path: str | os.PathLike) -> "ImageCounts":
        """Read a file of :meth:`write`.

        Raises:
            MissingFileError: the file does not exist.
            UserError: the file is damaged or has another format.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingFileError(
                f"'{path}' does not exist: an earlier version evaluated the run, or the evaluation "
                "was not finished. Evaluate the run again with d2-ctxseg eval."
            )
        try:
            with np.load(path, allow_pickle=False) as content:
                names = tuple(content["file_names"].tolist())
                classes = tuple(content["class_names"].tolist())
                counts = content["counts"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"'{path}' cannot be read ({type(error).__name__}: {error}). Evaluate the run "
                "again with d2-ctxseg eval."
            ) from error
        if counts.shape != (len(names), 3, len(classes)):
            raise UserError(
                f"'{path}' holds counts of the shape {counts.shape}, expected "
                f"{(len(names), 3, len(classes))}: images, 3, classes."
            )
        return cls(names, classes, counts)


def _below_common_folder(file_names: Sequence[str]) -> tuple[str, ...]:
    if len(file_names) < 2:
        return tuple(Path(name).name for name in file_names)
    root = os.path.commonpath([os.path.dirname(name) for name in file_names])
    return tuple(Path(name).relative_to(root).as_posix() if root else name for name in file_names)
