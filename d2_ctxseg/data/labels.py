"""Read label images, which have one integer per pixel."""

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
    ", which 'id_map' does not list. Add an entry with a class index or 'ignore' to 'id_map' in "
    "the dataset's YAML."
)


class ColorLabelError(DatasetError):
    """A label file has colour channels instead of one class index per pixel."""


@dataclass(frozen=True)
class LabelFormat:
    """The values in the label files of a dataset.

    Attributes:
        num_classes: the number of classes; their indices start at 0.
        ignore_label: label of pixels that belong to no class.
        id_map: value in the file -> class index or ``ignore_label``. None: the files contain class
            indices.
    """

    num_classes: int
    ignore_label: int
    id_map: Mapping[int, int] | None = None

    @classmethod
    def from_metadata(cls, metadata) -> "LabelFormat":
        """Create it from the metadata of a dataset in Detectron2's MetadataCatalog.

        Raises:
            DatasetError: ``stuff_classes`` is missing.
        """
        classes = metadata.get("stuff_classes")
        if not classes:
            raise DatasetError(
                f"The dataset '{metadata.name}' has no 'stuff_classes' in its metadata: it is not "
                "registered, or it is not a semantic segmentation dataset. For your own dataset, "
                "set DATASETS.FOLDERS to its YAML file: DATASETS.FOLDERS \"['mydata.yaml']\""
            )
        id_map = metadata.get("id_map", metadata.get("label_map"))  # its former name
        return cls(len(classes), metadata.get("ignore_label", 255), id_map)


def read_label(path: str | Path, id_map: Mapping[int, int] | None = None) -> np.ndarray:
    """Read a label file as an array (H, W), uint8 or, if a value is above 255, int32.

    For a palette image, the indices are read, not the colours. Labels are rotated by their EXIF
    orientation as images are.

    Args:
        path: an image with one channel of 1, 8, 16 or 32 bits.
        id_map: value in the file -> value in the result, all 0..65535. None: values are unchanged.

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
    """Map the values of a label (H, W).

    Args:
        raw: integers of any type (H, W).
        id_map: value -> new value, all 0..65535.
        path: the label file, for the error message.
        problem: the end of the error message for values that are not in the map.

    Returns:
        The mapped label (H, W), int32; uint8 if ``raw`` and all new values are uint8.

    Raises:
        DatasetError: a value is not in the map.
    """
    unknown = -1
    # One entry more than the highest key, for all larger and negative values.
    outside = max(id_map) + 1
    table = np.full(outside + 1, unknown, dtype=np.int32)
    table[list(id_map.keys())] = list(id_map.values())
    if raw.dtype == np.uint8:
        return _map_bytes(raw, table, path, problem)
    index = raw.astype(np.int64)
    mapped = table[np.where((index < 0) | (index > outside), outside, index)]
    if (mapped == unknown).any():
        raise DatasetError(f"{path} holds {_values(np.unique(index[mapped == unknown]))}{problem}")
    return mapped


def _map_bytes(raw: np.ndarray, table: np.ndarray, path, problem: str) -> np.ndarray:
    """Map a uint8 label. The table's last entry, -1, is for every larger value."""
    table = np.concatenate([table, np.full(max(256 - len(table), 0), -1, np.int32)])[:256]
    unknown = cv2.LUT(raw, (table < 0).astype(np.uint8)).astype(bool)
    if unknown.any():
        raise DatasetError(f"{path} holds {_values(np.unique(raw[unknown]))}{problem}")
    return cv2.LUT(raw, table.astype(np.uint8) if table.max() <= 255 else table)


def check_label_values(label: np.ndarray, label_format: LabelFormat, path: str | Path) -> None:
    """Raise DatasetError if a label is neither a class index nor the ignore label."""
    unknown = unknown_values(label, label_format)
    if unknown:
        raise DatasetError(
            f"{path} holds {_values(unknown)}, expected class indices "
            f"(0..{label_format.num_classes - 1}) or the ignore label "
            f"({label_format.ignore_label}). Set 'id_map' or 'ignore_label' in the dataset's YAML, "
            "or correct the file."
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
        f"The image {image_path} has {image.shape[1]}x{image.shape[0]} pixels, but its label "
        f"{label_path} has {label.shape[1]}x{label.shape[0]}. They must have the same size."
    )
    if orientation_of(image_path) != 1 and image.shape[1::-1] == label.shape[:2]:
        message += (
            " The image is rotated by its EXIF orientation, as in Detectron2, but the label seems "
            "to belong to the stored pixels. Rotate the label, or store the image without an EXIF "
            "orientation."
        )
    raise DatasetError(message)


def _read_integers(path: str | Path) -> np.ndarray:
    def decode(image: Image.Image) -> np.ndarray:
        if image.mode not in _INTEGER_MODES:
            raise ColorLabelError(_colored_label(path, image.mode))
        return upright(np.asarray(image), orientation(image))

    return open_image(path, decode, "label")


def _colored_label(path, mode: str) -> str:
    return (
        f"The label {path} is an image of mode {mode}, but a label must have one channel with a "
        "class index for each pixel. If its colours represent classes (the 'palette' in the "
        "dataset's YAML), convert the folder: "
        "d2-ctxseg convert-labels YAML SPLIT --output FOLDER --ignore-color R,G,B "
        "(--ignore-color is needed only if a colour represents no class). "
        "d2-ctxseg check-dataset --folder YAML prints the complete command."
    )


def _values(values: Sequence[int] | np.ndarray) -> str:
    """ "the value 9", "the values 3, 7" or "the values 3, 7, ... (12 in all)"."""
    shown = ", ".join(str(value) for value in values[:_NUM_EXAMPLES])
    if len(values) > _NUM_EXAMPLES:
        shown += f", ... ({len(values)} in all)"
    return f"the {'value' if len(values) == 1 else 'values'} {shown}"
