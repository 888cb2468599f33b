"""Visualise the confidence of a model and the internals of its classifier."""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import tqdm

from detectron2.data import DatasetCatalog
from detectron2.utils.logger import setup_logger

from ..data import (
    DatasetError,
    LabelFormat,
    check_label_values,
    check_same_size,
    generate_missing,
    read_label,
    register_builtin_datasets,
)
from ..data.images import check_megapixels, read_display_image
from ..deployment.predictor import SemSegPredictor
from ..utils.errors import UserError, counted, suggest
from ..utils.image_files import find_images, refuse_to_overwrite
from ..utils.outputs import check_output_folder
from ..utils.png import write_png
from ..visualization.classifier_views import draw_classifier_views
from .model_config import config_of


def dataset_files(name: str, count: int) -> list[tuple[Path, Path | None]]:
    """Image and label file (None without labels) of ``count`` evenly spaced records of a dataset.

    Args:
        name: registered name of the dataset.
        count: the largest number of records.
    """
    register_builtin_datasets([name])
    records = DatasetCatalog.get(name)
    indices = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    chosen = [records[i] for i in indices]
    labels = [record.get("sem_seg_file_name") for record in chosen]
    return [
        (Path(record["file_name"]), Path(label) if label else None)
        for record, label in zip(chosen, labels)
    ]


def read_sample(image_path: Path, label_path: Path | None, metadata, max_megapixels: float):
    """Read an image and its labels.

    Args:
        image_path: the image file.
        label_path: the label file, or None.
        metadata: the dataset's metadata.
        max_megapixels: the size limit of the image.

    Returns:
        The image, uint8 RGB (H, W, 3); and the labels, int64 (H, W) with -1 for ignored pixels, or
        None without a label file.

    Raises:
        DatasetError: a file cannot be read, the image is too large, or the labels do not fit the
            image or the classes.
    """
    check_megapixels(image_path, max_megapixels)
    image = read_display_image(image_path, metadata.get("value_range"))
    if label_path is None:
        return image, None
    label_format = LabelFormat.from_metadata(metadata)
    label = read_label(label_path, label_format.id_map)
    check_same_size(image, label, image_path, label_path)
    check_label_values(label, label_format, label_path)
    return image, np.where(label == label_format.ignore_label, -1, label.astype(np.int64))


def class_indices(names: list[str] | None, known: list[str]) -> list[int] | None:
    """The indices of classes by name. Upper and lower case matters only for ambiguous names.

    Args:
        names: names of classes, or None.
        known: names of all classes.

    Returns:
        The indices; None if ``names`` is None.

    Raises:
        UserError: a class does not exist; the message suggests the nearest name.
    """
    if names is None:
        return None
    indices = {name.lower(): index for index, name in enumerate(known)}
    indices |= {name: index for index, name in enumerate(known)}
    found = [indices.get(name, indices.get(name.lower())) for name in names]
    if None in found:
        unknown = names[found.index(None)]
        raise UserError(
            f"--classes: there is no class '{unknown}'.{suggest(unknown, known)} "
            f"The model's classes are {', '.join(known)}."
        )
    return found


def check_output(folder: Path, images: list[Path]) -> None:
    """Raise UserError if the output is not a folder, or if two images have the same name."""
    check_output_folder(folder, "--output")
    for stem, count in Counter(path.stem for path in images).items():
        if count > 1:
            raise UserError(
                f"{count} images are called {stem}: their views would overwrite one another in "
                f"{folder}; process them separately with different --output folders"
            )


def draw_image(predictor, sample, classes, image_path: Path, inputs: list[Path], folder: Path):
    """Draw and write all views of one image; yields (path, caption) of each view."""
    image, labels = sample
    views = draw_classifier_views(predictor, image, labels=labels, classes=classes)
    paths = [folder / f"{image_path.stem}_{view.name}.png" for view in views]
    for path in paths:
        refuse_to_overwrite(path, inputs)
    for path, view in zip(paths, views):
        write_png(path, view.picture)
        yield path, view.caption


def run(args, logger) -> None:
    """Draw the views of the images that the command line names."""
    dataset = ["DATASETS.TEST", repr((args.dataset,))] if args.dataset else []
    cfg = config_of(args, *dataset)
    if args.dataset:
        if cfg.DATASETS.GENERATE_MISSING:
            generate_missing([args.dataset])
        files = dataset_files(args.dataset, args.num_images)
    else:
        files = [(path, None) for path in find_images(args.input)]
    folder, inputs = Path(args.output), [path for pair in files for path in pair if path]
    check_output(folder, [path for path, _ in files])
    predictor = SemSegPredictor(cfg)
    classes = class_indices(args.classes, predictor.metadata.stuff_classes)
    unreadable = []
    for image_path, label_path in tqdm.tqdm(files, unit="image", disable=len(files) < 2):
        try:
            limit = predictor.max_megapixels
            sample = read_sample(image_path, label_path, predictor.metadata, limit)
        except DatasetError as error:
            unreadable.append(str(error))
            continue
        for path, caption in draw_image(predictor, sample, classes, image_path, inputs, folder):
            logger.info(f"{path}: {caption}")
    if unreadable:
        inputs = counted(len(unreadable), "input")
        raise UserError(f"{inputs} could not be read:\n  " + "\n  ".join(unreadable))


def main(args: argparse.Namespace) -> None:
    setup_logger(name="fvcore")
    setup_logger(name="d2_ctxseg")
    run(args, setup_logger())
