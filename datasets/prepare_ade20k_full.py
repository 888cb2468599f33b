#!/usr/bin/env python3
"""Prepare ADE20K with 847 classes (release 2021_17_01; see datasets/README.md).

    python datasets/prepare_ade20k_full.py

Makes ADE20K_2021_17_01/images_detectron2 and annotations_detectron2 from the official images/ADE.
The object index of a pixel, spread over two channels of NAME_seg.png, becomes the index of one of
847 classes, 0..846, in 16-bit .tif files; all other objects become 65535 (ignored).

As in MaskFormer's script for these classes, images and labels are reduced until the shorter side
has 512 pixels (--short-side); scores on labels of another size do not compare with published ones.
Images that are small already are linked.
"""

import os
from pathlib import Path

from d2_ctxseg.data.preparation import ImageFile, LabelFile
from d2_ctxseg.data.preparation_command import (
    Archive,
    Split,
    complete_pairs,
    preparation_parser,
    prepare_dataset,
    source_folder,
)
from d2_ctxseg.data.preparation_sources import label_table, read_ade20k_objects, read_source_ids
from d2_ctxseg.utils.errors import UserError, run_command

FOLDER = "ADE20K_2021_17_01"
OFFICIAL_COUNTS = {"training": 25574, "validation": 2000}
LABEL_SUFFIX = "_seg.png"
IGNORE_LABEL = 65535
# The largest index that the coding can hold: R = 255, G = 255.
MAX_OBJECT_INDEX = 25 * 256 + 255
ARCHIVE = Archive(
    "ADE20K, full (ADE20K_2021_17_01.zip)",
    ("https://ade20k.csail.mit.edu/",),
    """
    images/ADE/training/SCENE_GROUP/SCENE/ADE_train_00000001.jpg, ADE_train_00000001_seg.png ...
    images/ADE/validation/SCENE_GROUP/SCENE/ADE_val_00000001.jpg, ADE_val_00000001_seg.png ...
    """,
)


def find_labels(folder: Path) -> list[Path]:
    """All NAME_seg.png below ``folder``, sorted by name."""
    if not folder.is_dir():
        raise ARCHIVE.missing(folder)
    labels = []
    for place, subfolders, names in os.walk(folder):
        # Beside NAME.jpg, a folder NAME holds a mask for each of its objects: not looked into.
        subfolders[:] = [name for name in subfolders if f"{name}.jpg" not in names]
        labels += [
            Path(place, name)
            for name in names
            if name.endswith(LABEL_SUFFIX) and not name.startswith(".")
        ]
    return sorted(labels, key=lambda path: path.name)


def list_split(name: str, source: Path, target: Path, arguments) -> Split:
    """The images and labels of the official split ``name``."""
    classes = list(read_source_ids("ade20k_full"))
    table = label_table(classes, range(MAX_OBJECT_INDEX + 1), ignore_label=IGNORE_LABEL)
    short_side = arguments.short_side or None
    images, labels = [], []
    pairs, missing = complete_pairs(
        [
            (label.with_name(label.name.removesuffix(LABEL_SUFFIX) + ".jpg"), label)
            for label in find_labels(source / "images" / "ADE" / name)
        ]
    )
    for image, label in pairs:
        image_target = target / "images_detectron2" / name / image.name
        label_target = target / "annotations_detectron2" / name / f"{image.stem}.tif"
        images.append(ImageFile(image, image_target, short_side, arguments.copy_images))
        labels.append(LabelFile(label, label_target, table, read_ade20k_objects, image, short_side))
    return Split(name, OFFICIAL_COUNTS[name], labels, images, missing)


def main() -> None:
    parser = preparation_parser(__doc__, FOLDER)
    parser.add_argument(
        "--short-side",
        type=int,
        default=512,
        metavar="PIXELS",
        help="reduce larger images to this length of the shorter side; 0: never (%(default)s)",
    )
    parser.add_argument(
        "--copy-images", action="store_true", help="copy the small images rather than link them"
    )
    arguments = parser.parse_args()
    if arguments.short_side < 0:
        raise UserError(f"--short-side must be at least 0, but is {arguments.short_side}.")
    source, target = source_folder(arguments, ARCHIVE), arguments.root / FOLDER
    prepare_dataset(
        [list_split(name, source, target, arguments) for name in OFFICIAL_COUNTS],
        arguments,
        ["ade20k_full_sem_seg_train", "ade20k_full_sem_seg_val"],
    )


if __name__ == "__main__":
    run_command(main)
