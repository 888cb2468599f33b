"""ADE20K with 847 classes, release 2021_17_01: what is made of the archive."""

import argparse
import os
from pathlib import Path

from ...utils.errors import UserError
from . import (
    Archive,
    ImageFile,
    LabelFile,
    Pair,
    Split,
    class_indices,
    prepare_dataset,
    read_ade20k_objects,
    read_source_ids,
)

OFFICIAL_COUNTS = {"training": 25574, "validation": 2000}
LABEL_SUFFIX = "_seg.png"
IGNORE_LABEL = 65535
PILLOW_QUALITY = 75
# The largest index of the encoding: R = 255, G = 255.
MAX_OBJECT_INDEX = 25 * 256 + 255
ARCHIVE = Archive(
    "ADE20K, full (ADE20K_2021_17_01.zip)",
    ("https://ade20k.csail.mit.edu/",),
    """
    images/ADE/training/SCENE_GROUP/SCENE/ADE_train_00000001.jpg, ADE_train_00000001_seg.png ...
    images/ADE/validation/SCENE_GROUP/SCENE/ADE_val_00000001.jpg, ADE_val_00000001_seg.png ...
    """,
    ("ADE20K_2021_17_01",),
)


def find_labels(folder: Path) -> list[Path]:
    """All NAME_seg.png below ``folder``, sorted by name."""
    labels = []
    for place, subfolders, names in os.walk(ARCHIVE.need(folder)):
        # The folders NAME beside NAME.jpg, which have a mask of each object, are skipped.
        subfolders[:] = [name for name in subfolders if f"{name}.jpg" not in names]
        labels += [
            Path(place, name)
            for name in names
            if name.endswith(LABEL_SUFFIX) and not name.startswith(".")
        ]
    return sorted(labels, key=lambda path: path.name)


def list_split(name: str, source: Path, target: Path, arguments) -> Split:
    """The images and labels of the official split ``name``."""
    id_map = class_indices(
        read_source_ids("ade20k_full"), range(MAX_OBJECT_INDEX + 1), ignore_label=IGNORE_LABEL
    )
    short_side = arguments.short_side or None
    options = {"short_side": short_side, "copy": arguments.copy_images}
    if arguments.as_maskformer:
        options["quality"] = PILLOW_QUALITY
    images, labels = target / "images_detectron2" / name, target / "annotations_detectron2" / name
    pairs = []
    for path in find_labels(source / "images" / "ADE" / name):
        image = path.with_name(path.name.removesuffix(LABEL_SUFFIX) + ".jpg")
        label = labels / f"{image.stem}.tif"
        pairs.append(
            Pair(
                LabelFile(path, label, id_map, read_ade20k_objects, image, short_side),
                ImageFile(image, images / image.name, **options),
            )
        )
    return Split(name, OFFICIAL_COUNTS[name], labels, pairs)


def prepare(arguments: argparse.Namespace) -> None:
    """Create its files; arguments of :func:`prepare_dataset`, ``copy_images``,
    ``short_side`` and ``as_maskformer``.
    """
    if arguments.short_side < 0:
        raise UserError(f"--short-side must be at least 0, but is {arguments.short_side}.")
    source, target = ARCHIVE.find(arguments), arguments.root / "ADE20K_2021_17_01"
    prepare_dataset(
        [list_split(name, source, target, arguments) for name in OFFICIAL_COUNTS],
        arguments,
        ["ade20k_full_sem_seg_train", "ade20k_full_sem_seg_val"],
    )
