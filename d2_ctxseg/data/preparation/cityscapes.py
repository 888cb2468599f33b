"""Cityscapes with 19 classes: what is made of the archives."""

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

OFFICIAL_COUNTS = {"train": 2975, "val": 500}
MAX_LABEL_ID = 33
SOURCE_SUFFIX, TARGET_SUFFIX = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
ARCHIVE = Archive(
    "Cityscapes (leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip)",
    ("https://www.cityscapes-dataset.com/downloads/",),
    """
    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png ...   leftImg8bit/val/...
    gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png ...    gtFine/val/...
    """,
    ("cityscapes",),
)


def list_split(name: str, source: Path, target: Path) -> Split:
    """The labels of the official split ``name``."""
    id_map = class_indices(read_source_ids("cityscapes"), range(MAX_LABEL_ID + 1))
    folder, pairs = target / "gtFine" / name, []
    for path in ARCHIVE.list(source / "gtFine" / name, f"*/*{SOURCE_SUFFIX}"):
        label_name = path.name.removesuffix(SOURCE_SUFFIX) + TARGET_SUFFIX
        pairs.append(Pair(LabelFile(path, folder / path.parent.name / label_name, id_map)))
    return Split(name, OFFICIAL_COUNTS[name], folder, pairs)


def prepare(arguments: argparse.Namespace) -> None:
    """Create its files; arguments of :func:`prepare_dataset`."""
    # Files of this name may come from other tools, with other train ids.
    arguments.verify = True
    source, target = ARCHIVE.find(arguments), arguments.root / "cityscapes"
    prepare_dataset(
        [list_split(name, source, target) for name in OFFICIAL_COUNTS],
        arguments,
        ["cityscapes_fine_sem_seg_train", "cityscapes_fine_sem_seg_val"],
        [(source / "leftImg8bit", target / "leftImg8bit")],
    )
