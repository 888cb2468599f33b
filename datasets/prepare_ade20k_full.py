#!/usr/bin/env python3
"""Prepare ADE20K with 847 classes (release 2021_17_01; see datasets/README.md).

    python datasets/prepare_ade20k_full.py

The script writes ADE20K_2021_17_01/images_detectron2 and annotations_detectron2 from the official
images/ADE. The object index of a pixel, encoded in two channels of NAME_seg.png, becomes one of 847
class indices, 0..846, in 16-bit .tif files. All other objects become 65535 (ignored).

As in MaskFormer's script for these classes, images and labels are reduced until the shorter side
has 512 pixels (--short-side). Scores on labels of another size cannot be compared with published
ones. Reduced images are JPEGs of quality 95, and smaller images are linked. MaskFormer's script
writes all images as JPEGs of Pillow's quality 75, which loses more. --as-maskformer does the same,
for exactly comparable scores.
"""

import os
from pathlib import Path

from d2_ctxseg.data.preparation import (
    Archive,
    ImageFile,
    LabelFile,
    Pair,
    Split,
    class_indices,
    preparation_parser,
    prepare_dataset,
    read_ade20k_objects,
    read_source_ids,
)
from d2_ctxseg.utils.errors import UserError, run_command

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


def main() -> None:
    parser = preparation_parser(__doc__)
    parser.add_argument(
        "--short-side",
        type=int,
        default=512,
        metavar="PIXELS",
        help="reduce larger images to this length of the shorter side; 0: never (%(default)s)",
    )
    parser.add_argument(
        "--as-maskformer",
        action="store_true",
        help="write all images as JPEGs of quality 75, as MaskFormer's script does",
    )
    arguments = parser.parse_args()
    if arguments.short_side < 0:
        raise UserError(f"--short-side must be at least 0, but is {arguments.short_side}.")
    source, target = ARCHIVE.find(arguments), arguments.root / "ADE20K_2021_17_01"
    prepare_dataset(
        [list_split(name, source, target, arguments) for name in OFFICIAL_COUNTS],
        arguments,
        ["ade20k_full_sem_seg_train", "ade20k_full_sem_seg_val"],
    )


if __name__ == "__main__":
    run_command(main)
