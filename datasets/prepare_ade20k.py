#!/usr/bin/env python3
"""Prepare ADE20K with 150 classes (SceneParsing benchmark; see datasets/README.md).

    python datasets/prepare_ade20k.py

Makes ADEChallengeData2016/annotations_detectron2 from ADEChallengeData2016/annotations: the labels
are 0 for "other" and 1..150 for the classes; they become 255 (ignored) and 0..149. These are the
files that Detectron2's own script of this purpose makes.
"""

from pathlib import Path

from d2_ctxseg.data.preparation import FolderLink, LabelFile
from d2_ctxseg.data.preparation_command import (
    Archive,
    Split,
    list_folder,
    preparation_parser,
    prepare_dataset,
    source_folder,
)
from d2_ctxseg.data.preparation_sources import label_table
from d2_ctxseg.utils.errors import run_command

FOLDER = "ADEChallengeData2016"
OFFICIAL_COUNTS = {"training": 20210, "validation": 2000}
NUM_CLASSES = 150
ARCHIVE = Archive(
    "ADE20K (ADEChallengeData2016.zip)",
    ("http://sceneparsing.csail.mit.edu/",),
    """
    images/training/ADE_train_00000001.jpg ...      images/validation/ADE_val_00000001.jpg ...
    annotations/training/ADE_train_00000001.png ... annotations/validation/ADE_val_00000001.png ...
    """,
)


def list_split(name: str, source: Path, target: Path) -> Split:
    """The labels of the official split ``name``."""
    table = label_table(range(1, NUM_CLASSES + 1), ignored_values=[0])
    labels = [
        LabelFile(path, target / "annotations_detectron2" / name / path.name, table)
        for path in list_folder(source / "annotations" / name, "*.png", ARCHIVE)
    ]
    return Split(name, OFFICIAL_COUNTS[name], labels)


def main() -> None:
    arguments = preparation_parser(__doc__, FOLDER).parse_args()
    source, target = source_folder(arguments, ARCHIVE), arguments.root / FOLDER
    prepare_dataset(
        [list_split(name, source, target) for name in OFFICIAL_COUNTS],
        arguments,
        ["ade20k_sem_seg_train", "ade20k_sem_seg_val"],
        [FolderLink(source / "images", target / "images")],
    )


if __name__ == "__main__":
    run_command(main)
