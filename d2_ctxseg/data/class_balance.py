"""Class weights that balance the frequencies of the classes in the labels of a dataset.

Median-frequency balancing: Eigen & Fergus, ICCV 2015 (arXiv 1411.4734); as in SegNet,
Badrinarayanan et al., TPAMI 2017 (arXiv 1511.00561), section 4.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from detectron2.data import DatasetCatalog, MetadataCatalog

from .errors import DatasetError
from .labels import LabelFormat, check_label_values, read_label
from .registration import register_builtin_datasets

# A progress bar appears after this many seconds.
_BAR_DELAY = 5.0

logger = logging.getLogger(__name__)


class ClassPixels(NamedTuple):
    """Counts of the K classes in a set of label images, each (K,) int64."""

    pixels: np.ndarray
    """Pixels of the class."""
    pixels_of_images: np.ndarray
    """All pixels, ignored ones too, of the images that contain the class."""


def count_class_pixels(names: Sequence[str]) -> ClassPixels:
    """Count the classes in the labels of registered datasets of the same classes.

    Shows a progress bar if it takes long.

    Args:
        names: names of DatasetCatalog.

    Raises:
        DatasetError: a dataset has no classes or no labels, the datasets differ in their number
            of classes, or a label file cannot be read or holds a value that is no class.
    """
    files = [item for name in names for item in _label_files(name)]
    numbers = {label_format.num_classes for _, label_format in files}
    if len(numbers) != 1:
        raise DatasetError(
            f"The classes of {', '.join(names) or 'no dataset'} cannot be counted: expected "
            f"labels of one number of classes, got {sorted(numbers) or 'no labels'}."
        )
    pixels = np.zeros(numbers.pop(), np.int64)
    of_images = np.zeros_like(pixels)
    with ThreadPoolExecutor() as pool:
        counts = pool.map(_count_in_file, *zip(*files))
        for count, total in tqdm(
            counts, "counting classes", len(files), unit="image", delay=_BAR_DELAY
        ):
            pixels += count
            of_images[count > 0] += total
    return ClassPixels(pixels, of_images)


def refuse_unlabelled(names: Sequence[str]) -> None:
    """Refuse to train on labels whose pixels are all ignored.

    Labels are read until one has a pixel of a class, which is usually the first.

    Args:
        names: names of DatasetCatalog.

    Raises:
        DatasetError: no label has such a pixel, or a label is invalid.
    """
    files = [item for name in names for item in _label_files(name)]
    if files and not any(_count_in_file(*item)[0].any() for item in files):
        raise DatasetError(
            f"The labels of {', '.join(names)} have no pixel of a class: all pixels are ignored "
            f"(label {files[0][1].ignore_label}). Check 'ignore_label' and 'id_map' "
            "in the dataset's YAML; d2-ctxseg check-dataset counts the classes."
        )


def median_frequency_weights(counts: ClassPixels) -> list[float]:
    """The weight of each class: ``median(frequency) / frequency of the class``.

    The frequency of a class is its share of the pixels of the images that contain it. Classes that
    never occur are left out of the median and get the weight 1.

    Args:
        counts: the result of ``count_class_pixels``.

    Returns:
        K numbers above 0, rounded to six digits.

    Raises:
        DatasetError: no class occurs.
    """
    occurs = counts.pixels > 0
    if not occurs.any():
        raise DatasetError("No class occurs in the labels: all of their pixels are ignored.")
    frequency = counts.pixels[occurs] / counts.pixels_of_images[occurs]
    weights = np.ones(len(occurs))
    weights[occurs] = np.median(frequency) / frequency
    return [float(f"{weight:.6g}") for weight in weights]


def balanced_class_weights(names: Sequence[str]) -> list[float]:
    """Median-frequency weights of the classes in registered datasets.

    Args:
        names: names of DatasetCatalog, such as ``cfg.DATASETS.TRAIN``.

    Raises:
        DatasetError: as ``count_class_pixels`` and ``median_frequency_weights``.
    """
    counts = count_class_pixels(names)
    weights = median_frequency_weights(counts)
    classes = MetadataCatalog.get(names[0]).stuff_classes
    absent = [name for name, pixels in zip(classes, counts.pixels) if pixels == 0]
    if absent:
        logger.warning(
            "Classes that never occur in the labels of %s get the weight 1: %s.",
            ", ".join(names),
            ", ".join(absent),
        )
    return weights


def _label_files(name: str) -> list[tuple[str, LabelFormat]]:
    register_builtin_datasets([name])
    label_format = LabelFormat.from_metadata(MetadataCatalog.get(name))
    records = DatasetCatalog.get(name)
    files = [record["sem_seg_file_name"] for record in records if "sem_seg_file_name" in record]
    return [(file, label_format) for file in files]


def _count_in_file(path: str, label_format: LabelFormat) -> tuple[np.ndarray, int]:
    """The number of pixels of each class in a label file, and of all of its pixels."""
    label = read_label(path, label_format.id_map)
    check_label_values(label, label_format, path)
    values = label[label != label_format.ignore_label]
    return np.bincount(values, minlength=label_format.num_classes), label.size
