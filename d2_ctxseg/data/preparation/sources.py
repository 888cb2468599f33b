"""Read the labels in official archives."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pycocotools.mask
import yaml

from ...utils.errors import UserError
from ..errors import DatasetError
from ..images import open_image

_SOURCE_IDS_FOLDER = Path(__file__).resolve().parents[1] / "source_ids"


def read_source_ids(name: str) -> dict[int, str]:
    """Official label value -> class name, in the order of the class indices.

    Args:
        name: a file in ``source_ids`` without its suffix, such as ``cityscapes``.
    """
    text = (_SOURCE_IDS_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def class_indices(
    source_values: Iterable[int],
    ignored_values: Iterable[int],
    *,
    ignore_label: int = 255,
    first_index: int = 0,
) -> dict[int, int]:
    """Official value -> class index or ``ignore_label``.

    Args:
        source_values: the official values of the classes, in the order of their indices.
        ignored_values: values that map to ``ignore_label``, except those of a class.
        ignore_label: label of ignored pixels.
        first_index: index of the first class.
    """
    ignored = dict.fromkeys(ignored_values, ignore_label)
    return ignored | {value: index for index, value in enumerate(source_values, first_index)}


def matlab_reader(field: str) -> Callable[[Path], np.ndarray]:
    """A function that reads the matrix ``field`` of a .mat file as int64 (H, W).

    The function raises DatasetError if the file cannot be read or has no such matrix.

    Raises:
        UserError: SciPy is not installed.
    """
    try:
        import scipy.io
    except ImportError as error:
        raise UserError(
            "The labels of this dataset are .mat files, which need SciPy. Install it with "
            "python -m pip install scipy"
        ) from error

    def read(path: Path) -> np.ndarray:
        try:
            matrix = scipy.io.loadmat(str(path), variable_names=[field])[field]
        # SciPy raises many kinds of errors for damaged files, including those of zlib and struct.
        except Exception as error:
            raise DatasetError(
                f"Cannot read the label '{field}' of {path}: {error!r}. Unpack the archive that "
                "datasets/README.md names again."
            ) from error
        if matrix.ndim != 2 or matrix.dtype.kind not in "uif" or (matrix % 1).any():
            raise DatasetError(f"'{field}' of {path} is not a matrix of integers.")
        return matrix.astype(np.int64)

    return read


def read_ade20k_objects(path: str | Path) -> np.ndarray:
    """The object index of each pixel (H, W), int32, in a file ``NAME_seg.png`` of ADE20K.

    The index is (R // 10) * 256 + G, and 0 is no object. B distinguishes instances.

    Raises:
        DatasetError: the file cannot be read, or is not RGB.
    """

    def decode(image) -> np.ndarray:
        if image.mode != "RGB":
            raise DatasetError(
                f"{path} is an image of mode {image.mode}, but the official *_seg.png are RGB."
            )
        return np.asarray(image).astype(np.int32)

    red, green, _ = np.moveaxis(open_image(path, decode, "label"), -1, 0)
    return (red // 10) * 256 + green


@lru_cache(maxsize=1)  # hundreds of megabytes, and both splits are in it
def read_pascal_in_detail(path: str | Path) -> dict[str, dict[str, tuple]]:
    """Split -> image name -> arguments ``size`` and ``segments`` of :func:`draw_segments`.

    Args:
        path: ``trainval_merged.json`` of PASCAL in Detail. Its ``images`` have a ``phase`` ("train"
            or "val"), its ``annos_segmentation`` a category and a run-length encoded mask each.

    Raises:
        DatasetError: the file cannot be read, or has another format.
    """
    splits, segments = {"train": {}, "val": {}}, defaultdict(list)
    try:
        content = json.loads(Path(path).read_bytes())
        for segment in content["annos_segmentation"]:
            segments[segment["image_id"]].append((segment["category_id"], segment["segmentation"]))
        for image in content["images"]:
            size = image["height"], image["width"]
            if image["phase"] in splits:
                name = Path(image["file_name"]).stem
                splits[image["phase"]][name] = size, segments[image["image_id"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be read as trainval_merged.json of PASCAL in Detail: {error!r}. "
            "Download it again."
        ) from error
    return splits


def draw_segments(path: str | Path, size: tuple[int, int], segments: list) -> np.ndarray:
    """The category of each pixel (H, W), uint16; 0 is no category.

    Args:
        path: the file with the segments, for error messages.
        size: (height, width).
        segments: pairs (category, run-length encoded mask). A later segment overwrites earlier
            ones.

    Raises:
        DatasetError: a mask cannot be decoded, or has another size.
    """
    values = np.zeros(size, np.uint16)
    for category, mask in segments:
        try:
            values[pycocotools.mask.decode(mask).astype(bool)] = category
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path} has a mask that cannot be decoded: {error}") from error
    return values
