#!/usr/bin/env python3
"""Prepare COCO-Stuff-164K with 171 classes (see datasets/README.md).

    python datasets/prepare_coco_stuff_164k.py

Makes coco/stuffthingmaps_detectron2 from the official stuffthingmaps_trainval2017: their labels run
from 0 to 181 with gaps, where COCO numbers things that nobody annotated, and 255 is unlabeled. They
become 0..170 and 255 (ignored).
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
from d2_ctxseg.data.preparation_sources import label_table, read_source_ids
from d2_ctxseg.utils.errors import run_command

SOURCE = "coco/stuffthingmaps_trainval2017"
OFFICIAL_COUNTS = {"train2017": 118287, "val2017": 5000}
UNLABELED = 255
ARCHIVE = Archive(
    "COCO-Stuff-164K (stuffthingmaps_trainval2017.zip; train2017.zip and val2017.zip of COCO)",
    ("https://github.com/nightrome/cocostuff", "https://cocodataset.org/#download"),
    """
    train2017/000000000009.png ...
    val2017/000000000139.png ...
    """,
)


def list_split(name: str, source: Path, target: Path) -> Split:
    """The labels of the official split ``name``."""
    # The label maps count from 0, the official table of labels from 1.
    classes = [label - 1 for label in read_source_ids("coco_stuff")]
    table = label_table(classes, ignored_values=[UNLABELED])
    labels = [
        LabelFile(path, target / "stuffthingmaps_detectron2" / name / path.name, table)
        for path in list_folder(source / name, "*.png", ARCHIVE)
    ]
    return Split(name, OFFICIAL_COUNTS[name], labels)


def main() -> None:
    arguments = preparation_parser(__doc__, SOURCE).parse_args()
    source, target = source_folder(arguments, ARCHIVE), arguments.root / "coco"
    prepare_dataset(
        [list_split(name, source, target) for name in OFFICIAL_COUNTS],
        arguments,
        ["coco_2017_train_stuff_sem_seg", "coco_2017_val_stuff_sem_seg"],
        # The images are used where Detectron2 has them; only their absence is told.
        [FolderLink(target / name, target / name) for name in OFFICIAL_COUNTS],
    )


if __name__ == "__main__":
    run_command(main)
