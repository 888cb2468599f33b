"""Clothing Co-Parsing with 59 classes: the labels become images, the splits are ours."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from . import (
    Archive,
    ImageFile,
    LabelFile,
    Pair,
    Split,
    class_indices,
    matlab_reader,
    prepare_dataset,
)

NUM_CLASSES = 59
# The photographs with a pixel-wise label are 0001 to 1004. There are no official splits: of five
# photographs in a row, the first is for "val", the fifth for "test".
COUNTS = {"train": 603, "val": 201, "test": 200}
ARCHIVE = Archive(
    "Clothing Co-Parsing",
    ("https://github.com/bearpaw/clothing-co-parsing",),
    """
    photos/0001.jpg ...
    annotations/pixel-level/0001.mat ...
    """,
    ("clothing-co-parsing",),
)


def split_of(number: int) -> str:
    """The split of the photograph with this number."""
    return {1: "val", 0: "test"}.get(number % 5, "train")


def list_split(name: str, labels: Iterable[Path], source: Path, target: Path, copy: bool) -> Split:
    """The images and labels of the split ``name``."""
    folder, pairs = target / "annotations" / name, []
    id_map, reader = class_indices(range(NUM_CLASSES), []), matlab_reader("groundtruth")
    for label in labels:
        if split_of(int(label.stem)) == name:
            image = source / "photos" / f"{label.stem}.jpg"
            pairs.append(
                Pair(
                    LabelFile(label, folder / f"{label.stem}.png", id_map, reader, image),
                    ImageFile(image, target / "images" / name / image.name, copy=copy),
                )
            )
    return Split(name, COUNTS[name], folder, pairs)


def prepare(arguments: argparse.Namespace) -> None:
    """Make its files; arguments as of :func:`prepare_dataset` and ``copy_images``."""
    source, target = ARCHIVE.find(arguments), arguments.root / "clothing_co_parsing"
    labels = ARCHIVE.list(source / "annotations" / "pixel-level", "[0-9]*.mat")
    prepare_dataset(
        [list_split(name, labels, source, target, arguments.copy_images) for name in COUNTS],
        arguments,
        [f"clothing_co_parsing_sem_seg_{name}" for name in COUNTS],
    )
