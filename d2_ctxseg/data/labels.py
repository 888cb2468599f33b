"""Reads label images: one integer per pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .errors import DatasetError
from .images import open_image, orientation, orientation_of, read_common, upright

# Modes of Pillow with one integer per pixel. "P" is a palette image, whose indices are read.
_INTEGER_MODES = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L")
_NUM_EXAMPLES = 10
_NOT_IN_ID_MAP = (
    "which 'id_map' does not list. Map them to a class index or to 'ignore' in the dataset's YAML."
)


class ColorLabelError(DatasetError):
    """A label file has colour channels in place of one class index for each pixel."""


@dataclass(frozen=True)
class LabelFormat:
    """The values in the label files of a dataset.

    Attributes:
        num_classes: the number of classes; their indices start at 0.
        ignore_label: label of the pixels that belong to no class.
        id_map: value in the file -> class index or ``ignore_label``. None: the files hold class
            indices.
    """

    num_classes: int
    ignore_label: int
    id_map: Mapping[int, int] | None = None

    @classmethod
    def from_metadata(cls, metadata) -> "LabelFormat":
        """From the metadata of a dataset in Detectron2's MetadataCatalog.

        Raises:
            DatasetError: ``stuff_classes`` is missing.
        """
        classes = metadata.get("stuff_classes")
        if not classes:
            raise DatasetError(
                f"The dataset '{metadata.name}' has no 'stuff_classes' in its metadata: it is "
                "not registered, or not for semantic segmentation."
            )
        id_map = metadata.get("id_map", metadata.get("label_map"))  # its former name
        return cls(len(classes), metadata.get("ignore_label", 255), id_map)


def read_label(path: str | Path, id_map: Mapping[int, int] | None = None) -> np.ndarray:
    """Read a label file as an array (H, W), uint8 or, if a value is above 255, int32.

    Palette images give their indices, not their colours. Labels are rotated upright like images.

    Args:
        path: an image with one channel of 1, 8, 16 or 32 bits.
        id_map: value in the file -> value wanted, all values 0..65535. None: as in the file.

    Raises:
        ColorLabelError: the file has colour channels.
        DatasetError: the file cannot be read, or has a value that is not in ``id_map``.
    """
    raw = read_common(path, "L")
    if raw is None:
        raw = _read_integers(path)
    if id_map is not None:
        raw = map_values(raw, id_map, path)
    if raw.dtype == np.uint8:
        return np.require(raw, requirements="W")  # Pillow's memory is read-only
    return raw.astype(np.uint8 if raw.size and 0 <= raw.min() <= raw.max() <= 255 else np.int32)


def map_values(
    raw: np.ndarray, id_map: Mapping[int, int], path: str | Path, problem: str = _NOT_IN_ID_MAP
) -> np.ndarray:
    """Map the values of a label, int32; uint8 if the label is uint8 and the map fits into it.

    Args:
        raw: integers of any type.
        id_map: value -> new value, all 0..65535.
        path: the label file, for the error.
        problem: the end of the error message for values that are not in the map.

    Raises:
        DatasetError: a value is not in the map.
    """
    unknown = -1
    # One more entry than the highest key, for all other values.
    outside = max(id_map) + 1
    table = np.full(outside + 1, unknown, dtype=np.int32)
    table[list(id_map.keys())] = list(id_map.values())
    if raw.dtype == np.uint8:
        return _map_bytes(raw, table, path, problem)
    index = raw.astype(np.int64)
    mapped = table[np.where((index < 0) | (index > outside), outside, index)]
    if (mapped == unknown).any():
        values = np.unique(index[mapped == unknown])
        raise DatasetError(f"{path} holds the values {_some(values)}, {problem}")
    return mapped


def _map_bytes(raw: np.ndarray, table: np.ndarray, path, problem: str) -> np.ndarray:
    """Map a uint8 label. The table's last entry, -1, stands for every value beyond it."""
    table = np.concatenate([table, np.full(max(256 - len(table), 0), -1, np.int32)])[:256]
    unknown = cv2.LUT(raw, (table < 0).astype(np.uint8)).astype(bool)
    if unknown.any():
        raise DatasetError(f"{path} holds the values {_some(np.unique(raw[unknown]))}, {problem}")
    return cv2.LUT(raw, table.astype(np.uint8) if table.max() <= 255 else table)


def check_label_values(label: np.ndarray, label_format: LabelFormat, path: str | Path) -> None:
    """Raise DatasetError if a label is neither a class index nor the ignore label."""
    unknown = unknown_values(label, label_format)
    if unknown:
        raise DatasetError(
            f"{path} holds the values {_some(unknown)}, which are neither class indices "
            f"(0..{label_format.num_classes - 1}) nor the ignore label "
            f"({label_format.ignore_label}). Use 'id_map' or 'ignore_label' in the dataset's "
            "YAML, or correct the file."
        )


def unknown_values(label: np.ndarray, label_format: LabelFormat) -> list[int]:
    """The values of ``label``, sorted, that are neither class indices nor the ignore label."""
    outside = label >= label_format.num_classes
    if label.dtype.kind != "u":
        outside |= label < 0
    outside &= label != label_format.ignore_label
    return np.unique(label[outside]).tolist() if outside.any() else []


def check_same_size(image: np.ndarray, label: np.ndarray, image_path, label_path) -> None:
    """Raise DatasetError if an image (H, W, ...) and its label (H, W) differ in size."""
    if image.shape[:2] == label.shape[:2]:
        return
    message = (
        f"The image {image_path} is {image.shape[1]}x{image.shape[0]} pixels, but its label "
        f"{label_path} is {label.shape[1]}x{label.shape[0]}. They must have the same size."
    )
    if orientation_of(image_path) != 1 and image.shape[1::-1] == label.shape[:2]:
        message += (
            " The image is turned upright as its EXIF data says, as Detectron2 does, but the label "
            "seems to lie on the pixels as they are stored. Turn the label too, or store the image "
            "without the EXIF orientation."
        )
    raise DatasetError(message)


def _read_integers(path: str | Path) -> np.ndarray:
    def see(image: Image.Image) -> np.ndarray:
        if image.mode not in _INTEGER_MODES:
            raise ColorLabelError(_colored_label(path, image.mode))
        return upright(np.asarray(image), orientation(image))

    return open_image(path, see, "label")


def _colored_label(path, mode: str) -> str:
    return (
        f"The label {path} is an image of mode {mode}, but a label must have one channel with a "
        "class index for each pixel. If its colours stand for classes (the 'palette' of the "
        "dataset's YAML), convert the folder once: "
        "d2-ctxseg convert-labels YAML SPLIT --output FOLDER --ignore-color R,G,B "
        "(--ignore-color only where a colour stands for no class). "
        "d2-ctxseg check-dataset --folder YAML prints the whole command."
    )


def _some(values: Sequence[int] | np.ndarray) -> str:
    shown = ", ".join(str(value) for value in values[:_NUM_EXAMPLES])
    return shown if len(values) <= _NUM_EXAMPLES else f"{shown}, ... ({len(values)} in all)"
