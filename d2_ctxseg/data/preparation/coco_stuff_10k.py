"""COCO-Stuff-10K v1.1 with 171 classes: what is made of the archive."""

import argparse
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
    read_source_ids,
)

OFFICIAL_COUNTS = {"train": 9000, "test": 1000}
ARCHIVE = Archive(
    "COCO-Stuff-10K (cocostuff-10k-v1.1.zip, not v1.0)",
    ("https://github.com/nightrome/cocostuff10k",),
    """
    images/COCO_train2014_000000000077.jpg ...
    annotations/COCO_train2014_000000000077.mat ...
    imageLists/train.txt, imageLists/test.txt
    """,
    ("coco/coco_stuff_10k", "coco_stuff10k"),
)


def list_split(name: str, source: Path, target: Path, copy: bool) -> Split:
    """The images and labels that the official list ``name`` names."""
    id_map, reader = class_indices(read_source_ids("coco_stuff"), [0]), matlab_reader("S")
    images, labels = target / "images_detectron2" / name, target / "annotations_detectron2" / name
    pairs = []
    for key in ARCHIVE.need(source / "imageLists" / f"{name}.txt").read_text().split():
        image, label = source / "images" / f"{key}.jpg", source / "annotations" / f"{key}.mat"
        pairs.append(
            Pair(
                LabelFile(label, labels / f"{key}.png", id_map, reader, image),
                ImageFile(image, images / image.name, copy=copy),
            )
        )
    return Split(name, OFFICIAL_COUNTS[name], labels, pairs)


def prepare(arguments: argparse.Namespace) -> None:
    """Create its files; arguments of :func:`prepare_dataset` and ``copy_images``."""
    source, target = ARCHIVE.find(arguments), arguments.root / "coco/coco_stuff_10k"
    prepare_dataset(
        [list_split(name, source, target, arguments.copy_images) for name in OFFICIAL_COUNTS],
        arguments,
        ["coco_2017_train_stuff_10k_sem_seg", "coco_2017_test_stuff_10k_sem_seg"],
    )
