"""COCO-Stuff-164K with 171 classes: what is made of the archives."""

import argparse
from pathlib import Path

from . import (
    Archive,
    LabelFile,
    Pair,
    Split,
    class_indices,
    prepare_dataset,
    read_source_ids,
)

OFFICIAL_COUNTS = {"train2017": 118287, "val2017": 5000}
UNLABELED = 255
ARCHIVE = Archive(
    "COCO-Stuff-164K (stuffthingmaps_trainval2017.zip; train2017.zip and val2017.zip of COCO)",
    ("https://github.com/nightrome/cocostuff", "https://cocodataset.org/#download"),
    """
    train2017/000000000009.png ...
    val2017/000000000139.png ...
    """,
    ("coco/stuffthingmaps_trainval2017", "coco_stuff164k"),
)


def list_split(name: str, source: Path, target: Path) -> Split:
    """The labels of the official split ``name``."""
    # Labels start at 0 in the images, and at 1 in the official table.
    classes = [label - 1 for label in read_source_ids("coco_stuff")]
    id_map = class_indices(classes, ignored_values=[UNLABELED])
    folder = target / "stuffthingmaps_detectron2" / name
    pairs = [
        Pair(LabelFile(path, folder / path.name, id_map))
        for path in ARCHIVE.list(source / name, "*.png")
        if not path.stem.endswith("_labelTrainIds")
    ]
    return Split(name, OFFICIAL_COUNTS[name], folder, pairs)


def prepare(arguments: argparse.Namespace) -> None:
    """Create its files; arguments of :func:`prepare_dataset`."""
    source, target = ARCHIVE.find(arguments), arguments.root / "coco"
    labels, images = source, target
    if (source / "annotations").is_dir():  # mmsegmentation's
        labels, images = source / "annotations", source / "images"
    prepare_dataset(
        [list_split(name, labels, target) for name in OFFICIAL_COUNTS],
        arguments,
        ["coco_2017_train_stuff_sem_seg", "coco_2017_val_stuff_sem_seg"],
        [(images / name, target / name) for name in OFFICIAL_COUNTS],
    )
