"""ADE20K with 150 classes, the SceneParsing benchmark: what is made of the archive."""

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

OFFICIAL_COUNTS = {"training": 20210, "validation": 2000}
ARCHIVE = Archive(
    "ADE20K (ADEChallengeData2016.zip)",
    ("http://sceneparsing.csail.mit.edu/",),
    """
    images/training/ADE_train_00000001.jpg ...      images/validation/ADE_val_00000001.jpg ...
    annotations/training/ADE_train_00000001.png ... annotations/validation/ADE_val_00000001.png ...
    """,
    ("ADEChallengeData2016", "ade/ADEChallengeData2016"),
)


def list_split(name: str, source: Path, target: Path) -> Split:
    """The labels of the official split ``name``."""
    id_map = class_indices(read_source_ids("ade20k"), ignored_values=[0])
    folder = target / "annotations_detectron2" / name
    labels = ARCHIVE.list(source / "annotations" / name, "*.png")
    pairs = [Pair(LabelFile(path, folder / path.name, id_map)) for path in labels]
    return Split(name, OFFICIAL_COUNTS[name], folder, pairs)


def prepare(arguments: argparse.Namespace) -> None:
    """Create its files; arguments of :func:`prepare_dataset`."""
    source, target = ARCHIVE.find(arguments), arguments.root / "ADEChallengeData2016"
    prepare_dataset(
        [list_split(name, source, target) for name in OFFICIAL_COUNTS],
        arguments,
        ["ade20k_sem_seg_train", "ade20k_sem_seg_val"],
        [(source / "images", target / "images")],
    )
