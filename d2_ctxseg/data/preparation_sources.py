"""Reads the labels of official archives, and turns their values into class indices."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from ..utils.errors import UserError
from .errors import DatasetError

SOURCE_IDS_FOLDER = Path(__file__).resolve().parent / "source_ids"
_INVALID = -1
_NUM_EXAMPLES = 10


def read_source_ids(name: str) -> dict[int, str]:
    """Official label value -> class name, in the order of the class indices.

    Args:
        name: a file of ``source_ids`` without its suffix, such as ``cityscapes``.
    """
    text = (SOURCE_IDS_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def label_table(
    source_values: Iterable[int],
    ignored_values: Iterable[int],
    *,
    ignore_label: int = 255,
    first_index: int = 0,
) -> np.ndarray:
    """A table of the label that each official value becomes, for :func:`map_values`.

    Args:
        source_values: the official values of the classes, in the order of their indices.
        ignored_values: values that become ``ignore_label``, unless they are a class's.
        first_index: index of the first class.

    Returns:
        (largest value + 2,) int32; -1 where a value must not occur. The last entry is -1: it
        stands for all larger values.
    """
    source_values, ignored_values = list(source_values), list(ignored_values)
    table = np.full(max(source_values + ignored_values) + 2, _INVALID, np.int32)
    table[ignored_values] = ignore_label
    table[source_values] = np.arange(first_index, first_index + len(source_values))
    return table


def map_values(values: np.ndarray, table: np.ndarray, path: str | Path) -> np.ndarray:
    """Official values (H, W) as labels (H, W), uint8 or, if the table goes above 255, uint16.

    Args:
        values: integers of any type, at least 0.
        table: of :func:`label_table`.
        path: the file the values come from, for the error.

    Raises:
        DatasetError: a value occurs that must not.
    """
    # The table's last entry stands for everything beyond it.
    label = table[np.minimum(values, np.int32(len(table) - 1))]
    if (label == _INVALID).any():
        unknown = np.unique(values[label == _INVALID]).tolist()
        shown = ", ".join(map(str, unknown[:_NUM_EXAMPLES]))
        raise DatasetError(
            f"{path} holds values that are no label of this dataset: {shown}"
            f"{', ...' if len(unknown) > _NUM_EXAMPLES else ''}. "
            "Is it the file of the official archive? Unpack it again."
        )
    return label.astype(np.uint8 if table.max() <= 255 else np.uint16)


def matlab_reader(field: str):
    """A function of a path that reads the matrix ``field`` of a .mat file as integers (H, W)."""
    return partial(read_matlab, field=field)


def read_matlab(path: str | Path, field: str) -> np.ndarray:
    """The matrix ``field`` (H, W) of a .mat file, in an unsigned integer type.

    Raises:
        DatasetError: the file cannot be read, lacks the field, or it is no matrix of integers.
        UserError: SciPy is not installed.
    """
    scipy_io = require_scipy()
    try:
        content = scipy_io.loadmat(str(path), variable_names=[field])
    except NotImplementedError as error:
        raise DatasetError(
            f"{path} is a .mat file of version 7.3, but the official archive has older ones: it "
            "belongs to another release. datasets/README.md names the archive to take."
        ) from error
    # SciPy raises many kinds of errors on damaged files, down to zlib's and struct's.
    except Exception as error:
        raise DatasetError(f"Cannot read the label {path}: {error}") from error
    matrix = content.get(field)
    if matrix is None or matrix.ndim != 2 or matrix.dtype.kind not in "uif":
        raise DatasetError(f"{path} holds no matrix named '{field}'.")
    if not ((matrix >= 0) & (matrix <= 65535) & (matrix == np.floor(matrix))).all():
        raise DatasetError(f"'{field}' of {path} holds values that are not integers in 0..65535.")
    return matrix.astype(np.uint16)


def require_scipy():
    """The module ``scipy.io``; UserError with the way to install it if it is not there."""
    try:
        import scipy.io
    except ImportError as error:
        raise UserError(
            "The labels of this dataset are .mat files, and reading them needs SciPy, which is "
            "not installed. Install it once: python -m pip install scipy"
        ) from error
    return scipy.io


def read_ade20k_objects(path: str | Path) -> np.ndarray:
    """The object index of each pixel (H, W), int32, of an ADE20K ``NAME_seg.png``; 0: none.

    The index is spread over two channels, (R // 10) * 256 + G; B tells instances apart.

    Raises:
        DatasetError: the file cannot be read or has no three channels.
    """
    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                raise DatasetError(
                    f"{path} is an image of mode {image.mode}, but the official *_seg.png are RGB."
                )
            red, green, _ = np.moveaxis(np.asarray(image).astype(np.int32), -1, 0)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"Cannot read the label {path}: {error}") from error
    return (red // 10) * 256 + green
